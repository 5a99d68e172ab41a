"""`make clean` deletes what the cluster made, and nothing else, whatever VAR says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devcluster import removal
from devcluster.account import server_account
from devcluster.control import clean
from devcluster.errors import ClusterError
from devcluster.layout import Layout


def data_folder(path: Path) -> Path:
    """What a start leaves behind, with a file that is not the cluster's in the current folder of this process."""
    (path / "data" / "shard-0-a" / "base").mkdir(parents=True)
    (path / "data" / ".making-shard-0-b").mkdir()
    (path / "log").mkdir()
    for name in ("lock", "secrets.json", "operator-token"):
        (path / name).touch()
    return path


def everything_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def layout(var: Path) -> Layout:
    return Layout(var, server_account(os.environ))


@pytest.fixture(autouse=True)
def _somewhere_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own to work in: if relative paths were deleted, only this would go."""
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "bystander").touch()
    monkeypatch.chdir(tmp_path / "current")


def test_clean_deletes_the_whole_data_folder(tmp_path: Path) -> None:
    clean(layout(data_folder(tmp_path / "var")))
    assert everything_in(tmp_path) == {tmp_path / "current", tmp_path / "current" / "bystander"}


def test_clean_leaves_what_the_cluster_did_not_make(tmp_path: Path) -> None:
    var = data_folder(tmp_path / "var")
    (var / "notes.txt").touch()
    (var / "data" / "mine").mkdir()
    said = clean(layout(var))
    assert everything_in(var) == {var / "lock", var / "notes.txt", var / "data", var / "data" / "mine"}
    assert "left" in said


def test_clean_follows_no_link_out_of_the_data_folder(tmp_path: Path) -> None:
    var = data_folder(tmp_path / "var")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (var / "metrics").symlink_to(tmp_path / "precious")
    (var / "data" / "shard-0-c").symlink_to(tmp_path / "precious")
    clean(layout(var))
    assert (tmp_path / "precious" / "file").exists()
    assert not var.exists()


def test_clean_takes_the_servers_from_a_disk_that_data_links_to_and_leaves_the_rest_of_it(
    tmp_path: Path,
) -> None:
    var = data_folder(tmp_path / "var")
    (var / "data").rename(tmp_path / "disk")
    (tmp_path / "disk" / "photos").mkdir()
    (var / "data").symlink_to(tmp_path / "disk")
    clean(layout(var))
    assert everything_in(tmp_path / "disk") == {tmp_path / "disk" / "photos"}
    assert not var.exists()


@pytest.mark.parametrize("entry", [None, ".git"])
def test_clean_refuses_a_folder_that_is_no_clusters(tmp_path: Path, entry: str | None) -> None:
    var = tmp_path / "var"
    var.mkdir()
    if entry:
        data_folder(var)
        (var / entry).mkdir()
    before = everything_in(tmp_path)
    with pytest.raises(ClusterError, match="nothing was deleted"):
        clean(layout(var))
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("folder", ["around/repository", "around", "home"])
def test_clean_refuses_this_repository_what_holds_it_and_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Even where it looks like a cluster's data folder, as after a start with such a VAR."""
    monkeypatch.setattr(removal, "ROOT", tmp_path / "around" / "repository")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    var = data_folder(tmp_path / folder)
    before = everything_in(tmp_path)
    with pytest.raises(ClusterError, match="holds more than a cluster's data"):
        clean(layout(var))
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("folder", [Path(), Path("var"), Path("/var/../var")])
def test_clean_refuses_a_path_that_is_not_plain_and_absolute(folder: Path) -> None:
    with pytest.raises(ClusterError, match="nothing was deleted"):
        removal.check_removable(folder)


@pytest.mark.parametrize(
    "folder", [Path(), Path("/"), Path("/var/lib"), Path("/var/lib/infinite-scaling"), removal.ROOT]
)
def test_a_folder_elsewhere_goes_only_if_its_name_says_it_is_a_clusters(folder: Path) -> None:
    with pytest.raises(ClusterError, match="nothing was deleted"):
        removal.check_elsewhere(folder)


def test_no_folder_elsewhere_is_none_rather_than_a_path(tmp_path: Path) -> None:
    assert layout(tmp_path).elsewhere is None
