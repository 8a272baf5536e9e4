"""The environment of a container: its variables, with those that come from ConfigMaps and Secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from helpers.errors import ManifestError
from helpers.stack.local.addresses import Addresses
from helpers.stack.local.resources import KeyOf, Object, Secret, Settings, Variable, VariablesFrom

_REFERENCE = re.compile(r"(?<!\$)\$\(([-._a-zA-Z0-9]+)\)")

Sources = Mapping[tuple[str, str, str], Object]  # by Object.key


def variables(
    owner: Object,
    env: list[Variable],
    env_from: list[VariablesFrom],
    sources: Sources,
    addresses: Addresses,
    place: str | None,
) -> dict[str, str]:
    """Return name -> value, addresses resolved; as in a cluster `env` wins over `envFrom`.

    Args:
        owner: the object whose container it is.
        env, env_from: of the container.
        sources: all applied objects.
        addresses: what cluster addresses mean.
        place: where the container stands, for errors; None leaves out what is missing.

    Raises:
        ManifestError: a ConfigMap, a Secret or a key that is not there.
    """
    found: dict[str, str] = {}
    for number, source in enumerate(env_from):
        reference = source.secret_ref or source.config_map_ref
        assert reference is not None
        kind = "Secret" if source.secret_ref else "ConfigMap"
        where = None if place is None or reference.optional else f"{place}.envFrom[{number}]"
        for key, value in _values(owner, kind, reference.name, sources, where).items():
            found[source.prefix + key] = value
    strictly = set()
    for number, variable in enumerate(env):
        where = None if place is None else f"{place}.env[{number}]"
        value = _value(owner, variable, sources, where)
        if value is None:  # optional, and not there
            continue
        found[variable.name] = value
        if variable.value_from is None:
            strictly.add(variable.name)
    for name in strictly:
        refuse_reference(found[name], found, f"{place or owner}.env: {name}")
    # What a ConfigMap or Secret holds may be of no use here: the object store of a cluster.
    return {
        name: addresses.resolve(
            value, owner.namespace, f"{place}.env: {name}" if place and name in strictly else None
        )
        for name, value in found.items()
    }


def refuse_reference(text: str, names: Mapping[str, str], place: str) -> None:
    """Refuse `$(NAME)`, which a cluster replaces by the variable: in an argument, a Secret's value
    would be there for every process to see.

    Raises:
        ManifestError: names the variable.
    """
    for match in _REFERENCE.finditer(text):
        if match[1] in names:
            raise ManifestError(
                f"{place}: $({match[1]}) is not replaced here; write the value out, or let the "
                "program read the variable."
            )


def need_secret(owner: Object, name: str | None, sources: Sources, place: str | None) -> None:
    """Refuse the name of a Secret that has not been applied; its keys mean nothing here."""
    if name is not None:
        _values(owner, "Secret", name, sources, place)


def _value(owner: Object, variable: Variable, sources: Sources, place: str | None) -> str | None:
    if variable.value_from is None:
        return variable.value
    source = variable.value_from
    if source.field_ref is not None:
        return owner.name if source.field_ref.field_path == "metadata.name" else owner.namespace
    kind = "Secret" if source.secret_key_ref else "ConfigMap"
    reference = source.secret_key_ref or source.config_map_key_ref
    assert isinstance(reference, KeyOf)
    where = None if reference.optional else place
    values = _values(owner, kind, reference.name, sources, where)
    if reference.key not in values and where is not None:
        raise ManifestError(f"{where}: the {kind} {reference.name} has no key {reference.key!r}.")
    return values.get(reference.key)


def _values(
    owner: Object, kind: str, name: str, sources: Sources, place: str | None
) -> dict[str, str]:
    source = sources.get((kind, owner.namespace, name))
    if isinstance(source, Settings | Secret):
        return source.values
    if place is None:
        return {}
    raise ManifestError(
        f"{place}: there is no {kind} {name} in the namespace {owner.namespace}; apply its manifest "
        "before, or with this one."
    )
