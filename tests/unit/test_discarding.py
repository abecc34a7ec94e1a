"""Removing what foreign code made."""

import os
from pathlib import Path

from mcphub.spawn.discarding import discard


def test_a_tree_of_any_depth_is_removed_and_what_its_links_name_is_not(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    place = tmp_path / "place"
    place.mkdir()
    (place / "link").symlink_to(kept)
    here = os.open(place, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    discard(place)
    assert not place.exists()
    assert (kept / "file").read_text() == "x"
    discard(place)  # nothing there is nothing to do
