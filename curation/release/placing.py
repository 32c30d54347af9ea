"""A finished folder takes the place of a release: a reader finds the old one, none, or the new one, never a part."""

from fsspec import AbstractFileSystem

from curation.release.manifest import MANIFEST


def put_in_place(filesystem: AbstractFileSystem, new: str, place: str) -> None:
    """Put a finished folder in another's place, and remove what was there."""
    replaced = replaced_folder(place)
    if filesystem.exists(replaced):
        filesystem.rm(replaced, recursive=True)
    if filesystem.exists(place):
        filesystem.mv(place, replaced, recursive=True)
    filesystem.mv(new, place, recursive=True)
    if filesystem.exists(replaced):
        filesystem.rm(replaced, recursive=True)


def finish_exchange(filesystem: AbstractFileSystem, place: str) -> None:
    """Do the rest of an exchange in whose midst the process was killed, so that there is a release again."""
    if not filesystem.exists(place) and is_release(filesystem, partial_folder(place)):
        filesystem.mv(partial_folder(place), place, recursive=True)
    for leftover in (partial_folder(place), replaced_folder(place)):
        if filesystem.exists(place) and filesystem.exists(leftover):
            filesystem.rm(leftover, recursive=True)


def partial_folder(place: str) -> str:
    """Where a release is made."""
    return f"{place.rstrip('/')}.partial"


def replaced_folder(place: str) -> str:
    """Where the release before lies, for the moment of the exchange."""
    return f"{place.rstrip('/')}.replaced"


def is_release(filesystem: AbstractFileSystem, folder: str) -> bool:
    """Whether a folder holds a finished release."""
    manifest = f"{folder}/{MANIFEST}"
    return bool(filesystem.exists(manifest) and b"openlvd-release" in filesystem.cat_file(manifest))
