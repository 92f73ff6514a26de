"""Rows of the mutation tests: what a configuration refuses before anything is started with it."""

from __future__ import annotations

from tests.integration.mutation import Mutation, row

BELONGING = "tests/unit/config/test_belonging.py"
CASE = f"{BELONGING}::test_it_is_refused_with_what_was_expected"


def refused(case: str, module: str, guard: str) -> Mutation:
    """One refusal, which then lets everything through."""
    indent = guard[: len(guard) - len(guard.lstrip())]
    return row(case, f"recovery.config.{module}", f"{guard}\n", f"{indent}if False:\n", f"{CASE}[{case}]")


CONFIG_ROWS = [
    refused("a certificate without its key", "installation",
        "        if (self.certificate_file is None) != (self.key is None):"),
    refused("patroni's user without a password", "managers",
        "        if (self.user is None) != (self.password is None):"),
    refused("a manager without its section", "group", "            if by == manager and section is None:"),
    refused("a standby's password without its user", "group",
        "        if self.replication_password is not None and self.replication_user is None:"),
    refused("more acknowledgements than standbys", "group",
        "        if self.replication.synchronous and wanted is not None and wanted > there:"),
    refused("a key of KMS for the store's own", "locations",
        '        if self.kms_key is not None and self.algorithm == "AES256":'),
    refused("updates without a server", "dns", "            if self.provider == owner and missing:"),
    refused("another provider's key", "dns", "            if self.provider != owner and foreign:"),
    refused("a count for a duration", "operations", "        if self.name in TIMED and not is_duration:"),
    refused("a threshold that is true", "values",
        "    if isinstance(value, bool) or (isinstance(value, int) and value < 0):"),
    refused("a host that is none", "names", "    if not is_host(value):"),
    refused("a budget of what is no plan", "names",
        '    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*", value):'),
    row("a private key is not shown", "recovery.config.names",
        '    if value.startswith("ed25519-secret:"):\n', "    if False:\n",
        f"{BELONGING}::test_a_private_signing_key_among_the_public_ones_is_named_and_not_shown"),
    row("a file of any size", "recovery.config.config", "        if len(raw) > LARGEST_FILE:\n", "        if False:\n",
        f"{BELONGING}::test_a_file_of_a_size_that_nobody_wrote_is_not_read"),
]  # fmt: skip
