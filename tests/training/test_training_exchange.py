"""A model is replaced whole: wherever the exchange is cut off, all of the old or all of the new is left."""

from __future__ import annotations

import os
import shutil

import pytest

from pipelines.core.errors import TrainingError
from pipelines.training.exchange import FILES, HISTORY, build_successor, fingerprint, recover, swap


class Killed(BaseException):
    """Ends the work as a kill does: nothing that catches exceptions goes on."""


def folder_of(path, text):
    for name in FILES:
        file = path / name if "." in name else path / name / "weights"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def contents(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folders(tmp_path):
    model, candidate = folder_of(tmp_path / "model", "old"), folder_of(tmp_path / "candidate", "new")
    (model / "README.md").write_text("card")
    (model / "unet" / "only-in-the-old").write_text("old")
    (candidate / "unet" / "only-in-the-new").write_text("new")
    return model, candidate


def test_the_candidates_files_replace_the_models_and_the_card_stays(folders):
    model, candidate = folders
    (model / HISTORY).write_text("of the old weights")
    (candidate / "README.md").write_text("a note by the export")
    wanted = contents(candidate) | {"README.md": "card"}
    before = contents(model)
    staged = build_successor(candidate, model)
    assert contents(model) == before and contents(staged) == wanted
    swap(staged, model)
    assert contents(model) == wanted
    assert sorted(path.name for path in model.parent.iterdir()) == ["candidate", "model"]


@pytest.mark.parametrize("kind", ["copytree", "copyfile", "replace", "rmtree"])
@pytest.mark.parametrize("done", range(6))
def test_a_kill_leaves_the_old_or_the_new_model_whole(folders, monkeypatch, kind, done):
    model, candidate = folders
    old, new = contents(model), contents(candidate) | {"README.md": "card"}
    owner = os if kind == "replace" else shutil
    real, calls = getattr(owner, kind), []

    def dies(*arguments, **more):
        calls.append(arguments)
        if len(calls) > done:
            raise Killed
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, kind, dies)
        try:
            swap(build_successor(candidate, model), model)
        except Killed:
            pass
        else:
            assert done >= len(calls)
    recover(model)
    assert contents(model) in (old, new)
    assert sorted(path.name for path in model.parent.iterdir()) == ["candidate", "model"]
    swap(build_successor(candidate, model), model)
    assert contents(model) == new


def test_between_the_two_renames_the_old_model_is_found_again(folders):
    model, candidate = folders
    old = contents(model)
    build_successor(candidate, model)
    model.rename(model.with_name("model.old"))
    recover(model)
    assert contents(model) == old


def test_swapping_never_deletes_the_only_copy(tmp_path, monkeypatch):
    """After a kill between the renames the copy aside is the only one until the next is in place."""
    (tmp_path / "model.old").mkdir()
    (tmp_path / "model.new").mkdir()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        swap(tmp_path / "model.new", tmp_path / "model")
    assert (tmp_path / "model.old").is_dir()


def test_a_candidate_that_lacks_a_file_is_refused(folders):
    model, candidate = folders
    before = contents(model)
    (candidate / "preview.json").unlink()
    shutil.rmtree(candidate / "vae")
    with pytest.raises(TrainingError, match=r"lacks preview\.json, vae"):
        build_successor(candidate, model)
    assert contents(model) == before


def test_a_fingerprint_follows_names_and_bytes_of_what_it_covers(folders):
    model, _ = folders
    first = fingerprint(model, FILES)
    (model / "README.md").write_text("another card")
    assert fingerprint(model, FILES) == first
    (model / "unet" / "weights").write_text("olD")
    changed = fingerprint(model, FILES)
    (model / "unet" / "weights").rename(model / "unet" / "weight")
    assert len({first, changed, fingerprint(model, FILES)}) == 3
    (model / "preview.json").unlink()
    with pytest.raises(TrainingError, match=r"preview\.json"):
        fingerprint(model, FILES)
