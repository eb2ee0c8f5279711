from __future__ import annotations

from pathlib import Path

from backend.system.compiled import keep_in


def test_what_is_compiled_is_kept_in_one_folder(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    keep_in(tmp_path, environment)
    assert environment == {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
    keep_in(tmp_path / "other", environment)
    own = {"TORCHINDUCTOR_CACHE_DIR": "/elsewhere"}
    keep_in(tmp_path, own)
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert own["TRITON_CACHE_DIR"] == "/elsewhere/triton"
