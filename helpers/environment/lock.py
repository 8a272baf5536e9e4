"""What an environment lacks of the lock: `python helpers/environment/lock.py requirements.txt`.

Run by path with whatever Python is active, so only the standard library and `packaging` are used,
and every Python 3 can at least start it.
"""

import sys
from importlib import metadata


def read_lock(path):
    """Return {normalised name: Requirement} of the lines of `path` that hold on this machine."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    with open(path, encoding="utf-8") as file:
        lines = [line.split(" #")[0].strip() for line in file]
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(requirement.name): requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }


def differences(path):
    """Return one phrase for each line of the lock that the running environment does not meet."""
    found = []
    for name, requirement in read_lock(path).items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(f"{name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{name} is {version} instead of {requirement.specifier}")
    return found


def main(path):
    """Exit 0 if the lock is met, 3 if this is an environment of ours that differs, 1 otherwise."""
    if sys.version_info[:2] != (3, 12):
        return 1
    try:
        metadata.version("alibi-detect")
        found = differences(path)
    except (metadata.PackageNotFoundError, ImportError):
        return 1
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        print(", ".join(found[:3]) + more)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
