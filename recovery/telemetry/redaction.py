"""Keeps secrets out of everything that leaves the process as text: logs, error sentences, tracebacks.

Two nets, because each alone has holes: the exact values that the secret resolver handed out, and the forms that
secrets of this field have (passwords in addresses, cloud keys, age keys, tokens in notification addresses).
"""

from __future__ import annotations

import base64
import json
import re
import threading
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST_SECRET = 4  # shorter values would blank out half of every sentence and hide nothing
LONGEST_TEXT = 64 * 1024  # characters; longer texts are cut before they are searched

# Addresses of notification services carry tokens anywhere: in the place of the host, the user or the path.
_NOTIFY_SCHEMES = (
    "slack|discord|msteams|workflows?|teams|pagerduty|pagertree|opsgenie|tgram|mailtos?|mailgun|sendgrid|twilio|"
    "ntfys?|gotifys?|pover|matrixs?|mmosts?|rockets?|zulip|webex|wxteams|signals?|sns|ses|ifttt|join|pbul|"
    "splunk|victorops|gchat|guilded|hassios?|jsons?|xmls?|forms?|apprises?|bark|barks|lark|feishu|dingtalk|wecombot"
)
# No prefix: whatever stands before (db_, AWS_, PG) is left as it is. An open prefix costs quadratic time.
_SECRET_WORDS = r"(?:password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key|access[_-]?key|credentials?)"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)", re.S
        ),
        MASK,
    ),
    (re.compile(r"AGE-(?:SECRET-KEY|PLUGIN)-[A-Z0-9-]+", re.I), f"AGE-SECRET-KEY-{MASK}"),
    (re.compile(rf"\b({_NOTIFY_SCHEMES})://[^\s\"'<>]+", re.I), rf"\1://{MASK}"),
    (re.compile(r"\b(https?://hooks\.slack\.com)/[^\s\"'<>]+", re.I), rf"\1/{MASK}"),
    (re.compile(r"\b(https?://[\w.-]+)/(?:api/webhooks|webhookb2|webhook|workflows)/[^\s\"'<>]+", re.I), rf"\1/{MASK}"),
    # Userinfo up to the last @ of the authority: passwords hold @, : and what not.
    (re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{1,30}://[^\s/:@\"'<>]*):[^\s\"'<>]{0,512}@(?=[^\s@])"), rf"\1:{MASK}@"),
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"), f"AKIA{MASK}"),
    (re.compile(r"\b(X-Amz-(?:Signature|Security-Token|Credential)=)[^\s&\"'<>]+", re.I), rf"\1{MASK}"),
    (
        re.compile(r"\b((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?)(?:[A-Za-z0-9-]+ +)?[^\s\"',;]+", re.I),
        rf"\1{MASK}",
    ),
    (re.compile(r"\b(bearer +)[A-Za-z0-9._~+/=-]{8,}", re.I), rf"\1{MASK}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), MASK),
    # password=..., "password": "...", PASSWORD '...' (as in ALTER ROLE): quoted values first, they hold spaces.
    (
        re.compile(rf"({_SECRET_WORDS}[\"']?\s*(?:[:=]\s*|\s))'(?:[^'\\]|''|\\.)+'", re.I),
        rf"\1'{MASK}'",
    ),
    (re.compile(rf"({_SECRET_WORDS}[\"']?\s*[:=]\s*)\"(?:[^\"\\]|\\.)+\"", re.I), rf'\1"{MASK}"'),
    (re.compile(rf"({_SECRET_WORDS}\s*=\s*)[^\s\"',;&)}}\]]+", re.I), rf"\1{MASK}"),
    (re.compile(r"\b(password\s*:\s+)[^\s\"',;)}\]]+", re.I), rf"\1{MASK}"),
)
_SECRET_KEY = re.compile(rf"(?:{_SECRET_WORDS}|authorization)\Z", re.I)


class Redactor:
    """Masks secrets in text. Safe to use from every thread; ``mask`` never raises for any text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._known_pattern: re.Pattern[str] | None = None

    def register(self, *secrets: str) -> None:
        """From now on these exact values are masked, also URL-encoded, base64-encoded and escaped as in JSON.

        Several lines are registered line by line as well. Values under four characters are ignored.
        """
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST_SECRET}
        with self._lock:
            if forms <= self._known:
                return
            self._known |= forms
            # Longest first, so that a secret which starts with another one is masked whole.
            ordered = sorted(self._known, key=len, reverse=True)
            self._known_pattern = re.compile("|".join(re.escape(form) for form in ordered))

    def mask(self, text: str) -> str:
        """The text with every known or recognisable secret replaced by ``***``; at most 64 Ki characters of it."""
        if len(text) > LONGEST_TEXT:
            text = text[:LONGEST_TEXT] + f"… ({len(text) - LONGEST_TEXT} characters cut)"
        if (known := self._known_pattern) is not None:
            text = known.sub(MASK, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text

    def names_a_secret(self, key: str) -> bool:
        """Whether a field of this name holds a secret whatever its value looks like: ``db_password``, ``api_key``."""
        return _SECRET_KEY.search(key) is not None


def _forms(secret: str) -> set[str]:
    stripped = secret.strip()
    raw = stripped.encode("utf-8", "surrogateescape")
    forms = {
        stripped,
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
        json.dumps(stripped)[1:-1],
        repr(stripped)[1:-1],
    }
    if len(stripped) >= 2 * SHORTEST_SECRET:
        forms.add(base64.b64encode(raw).decode().rstrip("="))
    if "\n" in stripped:
        # A line of a key file counts alone, unless it is too ordinary to be one.
        forms |= {line.strip() for line in stripped.splitlines() if len(line.strip()) >= 2 * SHORTEST_SECRET}
    return forms


REDACTOR = Redactor()
"""The process's own: the secret resolver registers here, logs and adapters mask with it."""
