"""Where this machine's pip installs from, for the build's secret `index`: shell variables on stdout.

    python kind/image/index_settings.py >settings

Reads pip's settings (files and environment) and the variables of pip and uv. Folders of this machine are left out:
the build does not see them. Standard library only; run it with a Python that has pip.
"""

import ast
import os
import shlex
import subprocess
import sys

PASSED_ON = (
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"),
    *("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INSECURE_HOST"),
)
CA = "/run/secrets/ca"


def pip_settings():
    """Return pip's own settings, {"index-url": ...}, the environment's above those of files."""
    told = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(told, capture_output=True, text=True, timeout=60)
    settings = {}
    for line in done.stdout.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            settings[key.rpartition(".")[2]] = ast.literal_eval(value)
    return settings


def reachable(urls):
    """Return the URLs among them that a container can ask, in one string."""
    return " ".join(url for url in urls.split() if url.startswith(("http://", "https://")))


def variables(settings, environment):
    """Return the variables for pip and uv in the build."""
    found = {
        "PIP_INDEX_URL": reachable(settings.get("index-url", "")),
        "PIP_EXTRA_INDEX_URL": reachable(settings.get("extra-index-url", "")),
        "PIP_TRUSTED_HOST": settings.get("trusted-host", ""),
    }
    found["UV_DEFAULT_INDEX"] = found["PIP_INDEX_URL"]
    found["UV_INDEX"] = found["PIP_EXTRA_INDEX_URL"]
    found["UV_INSECURE_HOST"] = found["PIP_TRUSTED_HOST"]
    found |= {name: environment[name] for name in PASSED_ON if environment.get(name)}
    if ca_file(environment):
        found["SSL_CERT_FILE"] = found["PIP_CERT"] = CA
    return {name: value for name, value in found.items() if value}


def ca_file(environment):
    """Return the file of certificates that this machine's programs are told to trust, or an empty string."""
    return environment.get("SSL_CERT_FILE") or environment.get("PIP_CERT") or ""


if __name__ == "__main__":
    for name, value in variables(pip_settings(), os.environ).items():
        print(f"{name}={shlex.quote(value)}")
