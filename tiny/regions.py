"""Regions of photographs that nobody has drawn: what a tree of superpixels and two ways of looking agree about.

A tree merges superpixels, the most alike first, by the features of the trained trunk and by colour (after Arbeláez et
al., TPAMI 2011, and UnSAM, arXiv 2406.20081). A node is kept where a tree of other superpixels at another scale has
the same one nearly, and GrabCut (Rother et al., SIGGRAPH 2004) draws its edge where it changes little else.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.sam.trunk import EfficientNetLite
from tiny.batch import MEAN, STD

Mask = NDArray[np.bool_]

_FIRST, _LAST = 1, 3  # maps of the trunk that tell what belongs together: strides 8, 16 and 32
_GRID = 64  # cells of a side, on which maps of all strides are brought together
_COMPACT = 12.0  # of the superpixels
_COLOUR = 0.3  # weight of the colour's distance
_POWER = 0.35  # small pieces are merged sooner
_LEAST, _MOST = 0.008, 0.6  # share of the picture
_KEPT = 20  # regions of a picture
_ALIKE = 0.7  # IoU at which two regions of one picture are one
_AGREED = 0.5  # IoU with the other tree's node
_REFINED = 0.78  # IoU that GrabCut's outline needs with the node's


@dataclass(frozen=True)
class Region:
    """A part of a picture: its H×W mask, and how sure two ways are that it is one, IoU 0…1."""

    mask: Mask
    agreed: float


@dataclass(frozen=True)
class Tree:
    """Superpixels merged two by two: (H, W) numbers of the leaves, which leaves each node has (N, leaves) bool, and how
    much its parent's distance is above its own (N,)."""

    leaves: NDArray[np.int64]
    members: Mask
    stands_out: NDArray[np.float64]

    def masks(self, nodes: NDArray[np.int64] | np.int64) -> Mask:
        """(len(nodes), H, W), or (H, W) of one."""
        found: Mask = self.members[nodes][..., self.leaves]
        return found

    def within(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The nodes that are neither too small nor too large, and each one's share of the picture."""
        share = self.members @ (np.bincount(self.leaves.ravel()) / self.leaves.size)
        nodes = np.flatnonzero((share >= _LEAST) & (share <= _MOST))
        return nodes, share[nodes]


@torch.no_grad()
def tree(picture: NDArray[np.uint8], trunk: EfficientNetLite, segments: int, side: int) -> Tree:
    """The tree of an H×W×3 uint8 RGB picture from about `segments` superpixels, the trunk looking at side × side."""
    from skimage.segmentation import slic  # only making regions needs it

    leaves = slic(picture, n_segments=segments, compactness=_COMPACT, start_label=0, channel_axis=2).astype(np.int64)
    count = int(leaves.max()) + 1
    sizes = np.bincount(leaves.ravel(), minlength=count).astype(np.float64)
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    colours = np.stack([np.bincount(leaves.ravel(), lab[:, i], count) for i in range(3)], 1) / sizes[:, None]
    features = _features(picture, leaves, count, trunk, side)
    return _merge(leaves, features, colours, sizes)


def _features(
    picture: NDArray[np.uint8], leaves: NDArray[np.int64], count: int, trunk: EfficientNetLite, side: int
) -> NDArray[np.float64]:
    """(count, C): mean of each map, its columns of length 1, within every leaf."""
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    image = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
    maps = trunk((image - MEAN[:, None, None]) / STD[:, None, None])[_FIRST : _LAST + 1]
    size = (_GRID, _GRID)
    wide = [functional.interpolate(functional.normalize(m), size, mode="bilinear")[0].flatten(1) for m in maps]
    shares = _shares(leaves, count)
    return (shares @ torch.cat(wide).T).double().numpy()


def _shares(leaves: NDArray[np.int64], count: int) -> Tensor:
    """(count, cells): what part of every leaf lies in each cell of the grid."""
    high, wide = leaves.shape
    rows, columns = np.arange(high) * _GRID // high, np.arange(wide) * _GRID // wide
    cells = rows[:, None] * _GRID + columns
    table = np.bincount((leaves * _GRID**2 + cells).ravel(), minlength=count * _GRID**2).reshape(count, -1)
    return torch.from_numpy(table / table.sum(1, keepdims=True)).float()


def _merge(
    leaves: NDArray[np.int64], features: NDArray[np.float64], colours: NDArray[np.float64], sizes: NDArray[np.float64]
) -> Tree:
    count = len(sizes)
    total = 2 * count - 1
    feature = np.concatenate([features, np.zeros((count - 1, features.shape[1]))])
    colour = np.concatenate([colours, np.zeros((count - 1, 3))])
    size = np.concatenate([sizes, np.zeros(count - 1)])
    members = np.zeros((total, count), bool)
    members[np.arange(count), np.arange(count)] = True
    height, parent = np.zeros(total), np.full(total, -1)
    near: list[set[int]] = [set() for _ in range(total)]
    for first, second in ((leaves[:, :-1], leaves[:, 1:]), (leaves[:-1], leaves[1:])):
        for a, b in np.unique(np.stack([first.ravel(), second.ravel()], 1)[(first != second).ravel()], axis=0):
            near[a].add(int(b))
            near[b].add(int(a))
    whole = size[:count].sum()

    def away(a: int, b: int) -> float:
        alike = float(feature[a] @ feature[b]) / (np.linalg.norm(feature[a]) * np.linalg.norm(feature[b]) + 1e-9)
        shade = min(float(np.linalg.norm(colour[a] - colour[b])) / 40, 1.5)
        return float((1 - alike + _COLOUR * shade) * (min(size[a], size[b]) / whole) ** _POWER)

    queue = [(away(a, b), a, b) for a in range(count) for b in near[a] if a < b]
    heapq.heapify(queue)
    top = count
    while queue:
        far, a, b = heapq.heappop(queue)
        if parent[a] >= 0 or parent[b] >= 0:
            continue
        parent[a] = parent[b] = top
        size[top] = size[a] + size[b]
        feature[top] = (feature[a] * size[a] + feature[b] * size[b]) / size[top]
        colour[top] = (colour[a] * size[a] + colour[b] * size[b]) / size[top]
        members[top] = members[a] | members[b]
        height[top] = max(far, height[a], height[b])
        near[top] = {n for n in near[a] | near[b] if parent[n] < 0}
        for other in near[top]:
            near[other].add(top)
            heapq.heappush(queue, (away(top, other), top, other))
        top += 1
    above = np.where(parent[:top] >= 0, height[parent[:top]], height[:top])
    return Tree(leaves, members[:top], above - height[:top])


def propose(picture: NDArray[np.uint8], trunk: EfficientNetLite, side: int = 256) -> list[Region]:
    """The regions of an H×W×3 uint8 RGB picture, those first that stand out most."""
    first, second = tree(picture, trunk, 300, side), tree(picture, trunk, 170, side * 3 // 4 // 32 * 32)
    nodes, share = first.within()
    others, theirs = second.within()
    if not len(nodes) or not len(others):
        return []
    # overlaps of nodes follow from those of the leaves: a thousandth of the work that whole masks would take
    leaves = len(second.members[0])
    counts = np.bincount((first.leaves * leaves + second.leaves).ravel(), minlength=len(first.members[0]) * leaves)
    shared = counts.reshape(-1, leaves) / first.leaves.size
    both = first.members[nodes].astype(np.float64) @ shared @ second.members[others].T.astype(np.float64)
    agreed = (both / (share[:, None] + theirs[None] - both)).max(1)
    kept: list[Region] = []
    # large parts that stand out and that both trees know: of all orders tried, the one nearest to what people draw
    for number in np.argsort(-first.stands_out[nodes] * np.sqrt(share) * agreed):
        if len(kept) == _KEPT:
            break
        if agreed[number] < _AGREED:
            continue
        mask = first.masks(nodes[number])
        if any(_iou(mask, region.mask) > _ALIKE for region in kept):
            continue
        kept.append(Region(refined(picture, mask), float(agreed[number])))
    return kept


def _iou(first: Mask, second: Mask) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def refined(picture: NDArray[np.uint8], mask: Mask) -> Mask:
    """The mask with GrabCut's outline, where that is nearly the same region; smoothed, else."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    slack = 6 + max(rows[-1] - rows[0], columns[-1] - columns[0]) // 5
    part = np.s_[
        max(0, rows[0] - slack) : rows[-1] + slack + 1,
        max(0, columns[0] - slack) : columns[-1] + slack + 1,
    ]
    own = mask[part].astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(own, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    away = cv2.distanceTransform(1 - own, cv2.DIST_L2, 3)
    band = max(2.5, 0.25 * float(depth.max()))
    marks = np.where(own > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[depth > band] = cv2.GC_FGD
    marks[away > band] = cv2.GC_BGD
    smooth = cv2.medianBlur(own, 5)
    if (marks == cv2.GC_BGD).sum() > 50 and (marks == cv2.GC_FGD).sum() > 10:
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        bgr = np.ascontiguousarray(picture[part][..., ::-1])
        cv2.grabCut(bgr, marks, None, *models, 2, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
        cut = cv2.medianBlur(np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8), 5)
        if _iou(cut > 0, own > 0) >= _REFINED:
            smooth = cut
    if not smooth.any():
        smooth = own
    found = np.zeros_like(mask)
    found[part] = smooth > 0
    return found
