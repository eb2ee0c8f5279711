"""The façade: Perceive Anything (PAM, arXiv 2506.05302) for pictures and videos."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.adapter import Adapter, Wardrobe
from model.compute.batches import fitting, in_batches
from model.compute.clock import Clock, Span
from model.compute.device import pick_device, pick_dtype, quantizes
from model.compute.linear import quicken
from model.compute.quantized import quantize as eight_bits
from model.compute.stream import OwnStream
from model.errors import AdapterError, DeviceError
from model.finding.finder import SURE, Search
from model.finding.words import checked
from model.language.likelihood import TOKENS_PER_CHUNK, answer_ids, log_likelihoods
from model.language.prefix import SCORES_BYTES, Prefix
from model.language.qwen import Language
from model.loading.checkpoint import Checkpoint
from model.perceiver import Vision
from model.reading import REGIONS_ON_GPU, Reader, Reading
from model.sam import crops
from model.sam.encoder import TOGETHER
from model.sam.features import pooled, whole
from model.sam.proposals import Wanted, propose
from model.sam.tiles import MAX_TILES, View, views, windows
from model.sam.tower import Tower
from model.values.detail import InMemory
from model.values.embedding import Embedding
from model.values.image import as_rgb
from model.values.prompt import Prompt
from model.values.region import Found, Perception, Region, Segment, Texts
from model.values.sampling import GREEDY, Sampling
from model.values.task import Task, VideoTask, instruction
from model.values.window import LARGE_SIDE, Window
from model.video.track import CLIP_FRAMES
from model.video.verbs import Videos


class PerceiveAnything:
    """Segment, recognize, explain and caption regions of pictures and videos.

    Make one with `from_pretrained`. The methods may be called from several threads; each call is complete in itself.

    Attributes:
        name: the name or folder it was loaded from.
        base_version: `<name>@<fingerprint>`, or `<name>@<commit>-<fingerprint>` where a commit was asked for; changes
            only when configuration or weights change.
        version: the same, followed by `+` and the name of the adapter that is on, if one is.
        clock: marks moments on its device, to time stages.
        video: what it does with videos; `track`, `describe_video`, `stream` and `watch` are its verbs.
    """

    def __init__(self, tower: Tower, vision: Vision, language: Language, name: str = "pam", version: str = "") -> None:
        self.tower = tower
        self.vision = vision
        self.language = language
        self.name = name
        for module in (tower.sam, vision, language.model):
            quicken(module)
        self.reader = Reader(vision, language, tower.image_size // 16)
        self.search = Search(tower, self, self.reader.readings, self._encoded)
        self.video = Videos(tower, vision, language)
        # its verbs are at hand here too
        self.track, self.describe_video = self.video.track, self.video.describe
        self.stream, self.watch = self.video.stream, self.video.watch
        self.base_version = self.version = version or name
        self._wardrobe = Wardrobe(tower, vision, language)
        self.clock = Clock(tower.device)
        self._aside = OwnStream(tower.device)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        sam2_checkpoint: str | Path | None = None,
        sam2_config: str | Path | None = None,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        compile: bool = False,
        quantize: str = "none",
        resident: bool | None = None,
    ) -> PerceiveAnything:
        """Load a published checkpoint, or one in the same layout.

        Args:
            folder_or_id: a folder, a name of `hub.KNOWN` or of a bundled checkpoint, or a Hugging Face hub id; the
                published folders are nested, and either of the two will do. `@` and 40 hexadecimal digits after a name
                or an id pin a commit.
            sam2_checkpoint: SAM 2's weights; None takes those in the folder or the one around it, else
                facebook/sam2.1-hiera-large.
            sam2_config: the Hydra YAML that fits them, a path or a name of the `sam2` package; None finds it.
            device: "auto" (cuda, mps, cpu in this order), "cuda", "cuda:1", "mps", "cpu".
            dtype: "auto" (bfloat16 on GPUs that have it, float16 on others, float32 on the CPU), or one of these.
            compile: compile SAM 2's encoder wherever it runs, and what tracks videos; loading takes minutes more.
            quantize: "int8" keeps the language model's linear layers in eight bits, on a CPU in float32 only: less
                memory, and quicker where they are large; answers may differ (docs/model.md).
            resident: keep the token step laid out, compiled and captured as CUDA graphs, and with it on CUDA SAM 2's
                encoder; None does so on CUDA. Not with `quantize`.

        Raises:
            CheckpointError: something is missing, damaged or does not fit; the message names the file and the fix.
            DeviceError: the machine has no such device, it cannot do this dtype or quantization, or its memory is too
                small.
        """
        place = pick_device(device)
        kind = pick_dtype(dtype, place)
        in_eight_bits = quantizes(quantize, place, kind)
        checkpoint = Checkpoint.find(folder_or_id, sam2_checkpoint, sam2_config)
        try:
            vision, language = checkpoint.load_language(place, kind, eight_bits if in_eight_bits else None)
            tower = Tower(checkpoint.load_sam2(place), kind)
        except (torch.OutOfMemoryError, MemoryError) as error:
            first = str(error).partition("\n")[0]
            raise DeviceError(
                f"{checkpoint.name} does not fit into the memory of {place} ({first}): give another device, or a "
                "smaller model"
            ) from None
        pam = cls(tower, vision, language, checkpoint.name, checkpoint.version)
        on_cuda = place.type == "cuda"
        stays = (on_cuda if resident is None else resident) and not in_eight_bits
        if compile or on_cuda:
            tower.settle(pam.pictures_at_once, compile or stays)
        if compile:
            pam.video.settle()
        if stays:
            pam.stay()
        return pam

    def stay(self, compiled: bool = True, backend: str = "inductor") -> None:
        """Keep the language model's token step resident: see `model.language.resident` and `decoder`."""
        before, side = len(self.language.prompt_ids("")[0]), self.tower.image_size // 16
        vectors = (self.vision.length(side), self.vision.clip_length(side, CLIP_FRAMES))
        lengths = [-(-(before + count) // 8) * 8 for count in vectors]
        most = fitting(self.device, 3 * self.language.kept_bytes(lengths[0]), REGIONS_ON_GPU)
        self.language.stay(lengths, 1 << (most.bit_length() - 1), compiled, backend, before + vectors[0])

    def use(self, adapter: Adapter | None) -> None:
        """Answer as a version of this model from now on; None is the base. No other thread may ask meanwhile.

        What was read before (`Reading`) belongs to the version that read it; embeddings serve all versions.

        Raises:
            AdapterError: it does not fit; the base answers then.
        """
        self._wardrobe.take_off()
        self.version = self.base_version
        if adapter is not None:
            if adapter.base != self.base_version:
                raise AdapterError(
                    f"{adapter.name} was learned on {adapter.base}, and this model is {self.base_version}: fit again"
                )
            self._wardrobe.put_on(adapter)
            self.version = f"{self.base_version}+{adapter.name}"

    @property
    def device(self) -> torch.device:
        return self.tower.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the language model and the perceiver; SAM 2's weights are float32 (see `model.sam.tower`)."""
        return self.vision.dtype

    def encode(self, image: Image.Image | np.ndarray, large: int = LARGE_SIDE) -> Embedding:
        """Encode a picture once for any number of prompts.

        Args:
            image: a PIL picture (its EXIF orientation is applied), or an upright array (H, W, 3) uint8 RGB.
            large: a picture whose longer side has more pixels is kept with its embedding, and what is small in it is
                looked at closer by `segment` and `propose`; 0: never. It is not copied for that: leave it as it is.

        Raises:
            PictureError: it is neither.
        """
        return self.encode_all([image], large)[0]

    def encode_all(self, images: Sequence[Image.Image | np.ndarray], large: int = LARGE_SIDE) -> list[Embedding]:
        """Encode pictures together, on a GPU as many at once as fit; see `encode`."""
        pictures = [as_rgb(image) for image in images]
        return [
            replace(embedding, detail=InMemory(picture)) if 0 < large < max(picture.size) else embedding
            for picture, embedding in zip(pictures, self._encoded(pictures), strict=True)
        ]

    def _encoded(self, pictures: Sequence[Image.Image]) -> list[Embedding]:
        most = fitting(self.device, self.tower.bytes_to_encode, self.pictures_at_once)
        return in_batches(pictures, self.tower.encode, most)

    def beside(self) -> AbstractContextManager[None]:
        """A block whose `encode` and `encode_all` run beside what the device does for others: CUDA has a stream for it.

        What they give is to be used outside of the block only after `joined`.
        """
        return self._aside.beside()

    def joined(self, embedding: Embedding) -> Embedding:
        """An embedding that was encoded `beside`, for everybody."""
        self._aside.join((embedding.features, *embedding.high_resolution))
        return embedding

    @property
    def pictures_at_once(self) -> int:
        """Pictures that are encoded together, at most."""
        return 1 if self.device.type == "cpu" else TOGETHER

    def segment(
        self, embedding: Embedding | Sequence[Embedding], prompts: Sequence[Prompt], refine_masks: bool = False
    ) -> list[Region]:
        """One region for each prompt, in their order.

        What is small against a large picture (`encode`, and docs/model.md) is segmented in a crop around it, which is
        encoded for that, and its texts are read there: `Region.window`.

        Args:
            embedding: from `encode` of this model; or one for each prompt, which may be of different pictures.
            prompts: points, boxes or masks, in pixels of the original picture.
            refine_masks: regions of mask prompts carry SAM 2's refined mask instead of the given one.

        Raises:
            PromptError: a prompt does not lie on its picture.
            ValueError: another number of embeddings than of prompts.
        """
        each = [embedding] * len(prompts) if isinstance(embedding, Embedding) else list(embedding)
        for picture, prompt in zip(each, prompts, strict=True):
            prompt.check_inside(picture.width, picture.height)
        here = {id(picture): self._here(picture) for picture in each}
        return crops.segment(self.tower, self._encoded, [here[id(p)] for p in each], prompts, refine_masks)

    def propose(
        self,
        embedding: Embedding,
        points_per_side: int = 16,
        min_iou: float = 0.7,
        min_stability: float = 0.7,
        max_overlap: float = 0.6,
        min_area_share: float = 0.001,
        limit: int = 64,
        max_tiles: int = MAX_TILES,
    ) -> list[Region]:
        """Regions of a picture without a prompt: a grid of clicks, of which the good and different answers stay.

        A large picture (`encode`) is looked at as a whole and in overlapping tiles.

        Args:
            embedding: from `encode` of this model.
            points_per_side: clicks along each side of the picture, and of each tile, evenly spread.
            min_iou: of SAM 2's own estimate, 0..1. The defaults suit the bundled checkpoint; for its released weights
                SAM 2 uses 0.8.
            min_stability: IoU of the mask with its logits' threshold at 1 and at -1, 0..1; SAM 2 uses 0.95 for those.
            max_overlap: IoU of two masks above which the one with the lower predicted IoU is dropped.
            min_area_share: of the picture, or the tile, 0..1.
            limit: regions at most.
            max_tiles: of a large picture: where that is too few, they are larger; 1: none.

        Returns:
            Regions by predicted IoU, the best first; the prompt of each is its click.

        Raises:
            ValueError: a number out of its range.
        """
        wanted = Wanted(points_per_side, min_iou, min_stability, max_overlap, min_area_share, limit)
        return propose(self.tower, self._encoded, self._here(embedding), wanted, max_tiles)

    def views(self, embedding: Embedding, max_tiles: int = MAX_TILES) -> Iterator[View]:
        """The whole picture, then the overlapping tiles of a large one (`encode`), encoded as they are asked for.

        Each has an embedding of its own, in whose pixels prompts and answers are; `model.sam.tiles` places these in the
        picture (`placed`) and finds what was seen twice (`piece`, `merged`).
        """
        return views(self._encoded, self._here(embedding), self.tower.image_size, max_tiles)

    def windows(self, embedding: Embedding, max_tiles: int = MAX_TILES) -> list[Window]:
        """The parts of a picture that `views` shows, in its order, without encoding them."""
        return windows(embedding, self.tower.image_size, max_tiles)

    def features(self, regions: Sequence[Region]) -> np.ndarray:
        """What each region looks like: SAM 2's image features averaged inside its mask.

        The dot product of two rows is a similarity of at most 1, in one picture or across pictures. A row depends on
        nothing but the picture and the mask, however small the mask is, and not on the prompt or on other regions. Rows
        of different checkpoints (`version`) have nothing to do with each other.

        Args:
            regions: from `segment` or `propose` of this model.

        Returns:
            (R, d) float32, each row of length 1, of an empty mask zeros. d follows from the checkpoint's levels.

        Raises:
            ValueError: a region of a video.
        """
        return pooled(regions).cpu().numpy()

    def find(
        self,
        embedding: Embedding,
        text: str | Sequence[str] = (),
        like: Sequence[Region] = (),
        unlike: Sequence[Region] = (),
        known: Sequence[np.ndarray] = (),
        limit: int = 64,
        threshold: float | None = None,
        max_tiles: int = MAX_TILES,
    ) -> list[Found]:
        """All things of a picture that words name, that look like examples, or both.

        What was made of the picture for one text is kept for the next one, of the last few pictures. A large picture
        (`encode`) is searched as a whole and in overlapping tiles: by words in all of them, by an example that is small
        in a large picture in tiles, by one that is not in the whole.

        Args:
            embedding: from `encode` of this model.
            text: a name ("mug") or a short phrase ("red mug"), English or Chinese; several mean the same thing.
            like: examples, from `segment` or `propose` of this model, of this picture or others.
            unlike: counter-examples, likewise.
            known: masks (H, W) of what is not to be answered; examples of this picture are not answered anyway.
            limit: regions at most.
            threshold: of the score, 0..1; None takes 0.5.
            max_tiles: as of `propose`.

        Returns:
            Regions with a score, the surest first; none where nothing fits.

        Raises:
            PromptError: an empty text, or one of more than 200 characters.
            ValueError: neither text nor examples, a number out of its range, a mask of another size, or an example
                that is empty or of a video.
        """
        if limit < 1:
            raise ValueError(f"limit {limit}: give at least 1")
        least = SURE if threshold is None else threshold
        if not 0 <= least <= 1:
            raise ValueError(f"threshold {threshold}: give a number from 0 to 1")
        if any(mask.shape != (embedding.height, embedding.width) for mask in known):
            raise ValueError("a known mask of another size than the picture")
        if not like and not text:
            raise ValueError("nothing to look for: give a text or an example")
        names = checked(text) if text or not like else ()
        return self.search.find(self._here(embedding), names, like, unlike, known, limit, least, max_tiles)

    def alike(
        self,
        embedding: Embedding,
        like: Sequence[Region],
        unlike: Sequence[Region] = (),
        known: Sequence[np.ndarray] = (),
        limit: int = 64,
        threshold: float | None = None,
        max_tiles: int = MAX_TILES,
    ) -> list[Found]:
        """All things of a picture that look like examples: see `find`."""
        return self.find(embedding, (), like, unlike, known, limit, threshold, max_tiles)

    def picture_features(self, embedding: Embedding) -> np.ndarray:
        """What a whole picture looks like: as `features`, of a region that is all of it. (d,) float32 of length 1."""
        return whole(embedding).cpu().numpy()

    def _here(self, embedding: Embedding) -> Embedding:
        return embedding if embedding.device == self.device else embedding.to(self.device)

    def describe(
        self,
        regions: Sequence[Segment] | Reading,
        tasks: Sequence[Task | str] = (Task.RECOGNIZE, Task.BRIEF),
        language: str = "en",
        sampling: Sampling = GREEDY,
    ) -> list[Texts]:
        """The texts of each region by task, regions and tasks in their order.

        Args:
            regions: from `segment` or `track` of this model, or read already (`read`).
            tasks: `Task`s (or their values); any other string is asked as it stands.
            language: "en" or "zh".
            sampling: how they are drawn.

        Raises:
            ValueError: an unknown language or an empty instruction.
        """
        asked, each = self._asked(tasks, language, sampling)
        return self.reader.of_each(
            regions, lambda prefix: self.language.texts(prefix, asked, language, sampling), each, SCORES_BYTES
        )

    def describing(
        self, reading: Reading, tasks: Sequence[Task | str], language: str = "en", sampling: Sampling = GREEDY
    ) -> Generator[None, None, list[Texts]]:
        """As `describe`, in turns with others: it yields where token steps have to be made (`advance`) for all of them.

        Where no decoder stays (`joins`), or memory is short, it is all done at once.
        """
        asked, each = self._asked(tasks, language, sampling)
        if not self.joins or fitting(self.device, each, len(reading), SCORES_BYTES) < len(reading):
            return self.describe(reading, tasks, language, sampling)
        return (yield from self.language.telling(reading.prefix, asked, language, sampling))

    def advance(self) -> None:
        """A few token steps for all that are under way."""
        self.language.advance()

    @property
    def joins(self) -> bool:
        """Whether texts of several calls of `describing` are drawn together, each for as long as it takes."""
        return self.language.decoder is not None

    def _asked(
        self, tasks: Sequence[Task | str], language: str, sampling: Sampling
    ) -> tuple[dict[Task | VideoTask | str, str], int]:
        """The instruction of each task, and the memory that a region takes while it is asked them, in bytes."""
        asked: dict[Task | VideoTask | str, str] = {task: instruction(task, language) for task in map(_task, tasks)}
        most = max(map(sampling.most, asked), default=1)
        return asked, self.language.bytes_to_answer(list(asked.values()), most)

    def score(
        self,
        regions: Sequence[Segment] | Reading,
        candidates: Sequence[str],
        task: Task | str = Task.RECOGNIZE,
        language: str = "en",
        ended: bool = True,
    ) -> np.ndarray:
        """How likely each candidate is as the whole answer about each region: to choose among given labels.

        Args:
            regions: from `segment` of this model, or read already (`read`).
            candidates: at least one answer, each as the model would write it ("dog", not " Dog ").
            task: a `Task` (or its value); any other string is asked as it stands.
            language: "en" or "zh", of the instruction.
            ended: False takes the candidates for beginnings of answers, whatever may follow.

        Returns:
            (R, N) float32, natural-log likelihoods <= 0, the end token counted; `exp` gives probabilities, which sum to
            less than 1 since the model may say something else. A longer answer is less likely by its length alone.

        Raises:
            ValueError: no candidates, one without tokens, an unknown language, an empty instruction, or a checkpoint
                without an end token.
        """
        asked = instruction(_task(task), language)
        answers = answer_ids(self.language, candidates)

        def scores(prefix: Prefix) -> list[np.ndarray]:
            question = self.language.question_ids(prefix, asked)
            found = log_likelihoods(self.language, prefix, question, answers, tokens, ended)
            return list(found.float().cpu().numpy())

        # logits of a large vocabulary take more than all else: as many tokens at a time as have room
        none, one = self.language.bytes_of_scores(0), self.language.bytes_of_scores(1)
        tokens = max(fitting(self.device, one - none, TOKENS_PER_CHUNK, none), *map(len, answers))
        each, besides = self.language.bytes_to_score(asked, tokens), self.language.bytes_of_scores(tokens)
        rows = self.reader.of_each(regions, scores, each, besides)
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(answers))

    def read(self, regions: Sequence[Segment]) -> Reading:
        """Read the prompts of regions once, for any number of calls of `describe` and `score` about them.

        What is read takes memory on the device as long as it is kept: two vectors a layer and token. `readings` keeps
        no more of it than fits.
        """
        return self.reader.read(regions)

    def readings(self, regions: Sequence[Segment]) -> Iterator[Reading]:
        """Read as many regions as memory has room for, then the next ones: all of them, in their order."""
        return self.reader.readings(regions)

    def perceive(
        self,
        image_or_embedding: Image.Image | np.ndarray | Embedding,
        prompts: Sequence[Prompt],
        tasks: Sequence[Task | str] = (Task.RECOGNIZE, Task.BRIEF),
        language: str = "en",
        sampling: Sampling = GREEDY,
        refine_masks: bool = False,
        large: int = LARGE_SIDE,
    ) -> Perception:
        """Encode (unless an embedding is given), segment and describe in one call; arguments as in the three verbs."""
        begin = self.clock.now()
        given = isinstance(image_or_embedding, Embedding)
        embedding = (
            image_or_embedding if isinstance(image_or_embedding, Embedding) else self.encode(image_or_embedding, large)
        )
        encoded = self.clock.now()
        regions = self.segment(embedding, prompts, refine_masks)
        segmented = self.clock.now()
        texts = self.describe(regions, tasks, language, sampling)
        described = self.clock.now()
        seconds = {
            "encode": 0.0 if given else Span(begin, encoded).seconds(),
            "segment": Span(encoded, segmented).seconds(),
            "describe": Span(segmented, described).seconds(),
        }
        return Perception(embedding, regions, texts, seconds)


def _task(task: Task | str) -> Task | str:
    try:
        return Task(task)
    except ValueError:
        return task
