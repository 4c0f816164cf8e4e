"""Messages as mail programs really write them, and as nobody should."""

from __future__ import annotations

import base64
import quopri
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airavata_provider.monitors.mail.message import BODY_LIMIT, Mail, Verdict, is_authentic, read, subject_of

ARRIVED = datetime(2031, 5, 6, 12, tzinfo=UTC)


def mail(head: str, body: bytes = b"") -> Mail:
    return read(head.strip().replace("\n", "\r\n").encode() + b"\r\n\r\n" + body, ARRIVED)


SUBJECTS = [
    ("plain", "plain"),
    ("folded\r\n over\r\n\tlines", "folded over lines"),
    ("=?utf-8?B?Z3LDvG4=?= and =?iso-8859-1?Q?gr=FCn?=", "grün and grün"),
    ("=?utf-8?Q?Slurm_Job=5Fid=3D1?=\r\n =?utf-8?Q?_Name=3Da?=", "Slurm Job_id=1 Name=a"),
    ("=?x-klingon?Q?abc?=", "abc"),
    ("=?koi8-r?B?8NLJ18XU?=", "Привет"),
    ("", ""),
]


@pytest.mark.parametrize(("raw", "text"), SUBJECTS)
def test_subjects(raw: str, text: str) -> None:
    header = f"From: a@b.test\r\nSubject: {raw}\r\nDate: x\r\n\r\n".encode()
    assert read(header, ARRIVED).subject == text
    assert subject_of(header) == text


def test_a_subject_in_bytes_of_no_encoding_is_read() -> None:
    for raw in (b"gr\xc3\xbcn", b"gr\xfcn"):
        header = b"Subject: " + raw + b"\r\n\r\n"
        assert subject_of(header) == read(header, ARRIVED).subject
        assert subject_of(header).startswith("gr")


PLAIN = "Job 33\nExit Status = 0 grün\n"
BODIES = [
    ("Content-Type: text/plain; charset=utf-8", PLAIN.encode()),
    ("Content-Type: text/plain; charset=utf-8", PLAIN.replace("\n", "\r\n").encode()),
    ("Content-Type: text/plain; charset=iso-8859-1", PLAIN.encode("latin-1")),
    ("Content-Type: text/plain; charset=utf-16", PLAIN.encode("utf-16")),
    ("Content-Type: text/plain; charset=no-such-charset", PLAIN.encode()),
    ("Content-Type: text/plain; charset=us-ascii", PLAIN.encode()),
    ("", PLAIN.encode("latin-1")),
    (
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64",
        base64.encodebytes(PLAIN.encode()),
    ),
    (
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable",
        quopri.encodestring(PLAIN.encode()),
    ),
    (
        "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable",
        quopri.encodestring(PLAIN.encode("latin-1")),
    ),
    (
        "Content-Type: text/html; charset=utf-8",
        b"<style>p {}</style><p>Job&nbsp;33</p><b>Exit Status</b> = 0 gr&uuml;n<br>",
    ),
    (
        'Content-Type: multipart/alternative; boundary="b"',
        "--b\r\nContent-Type: text/html\r\n\r\n<b>no</b>\r\n"
        f"--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{PLAIN}--b--\r\n".encode(),
    ),
    (
        'Content-Type: multipart/mixed; boundary="b"',
        f"preamble\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{PLAIN}"
        "--b\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment\r\n\r\nxx\r\n--b--\r\n".encode(),
    ),
]


@pytest.mark.parametrize(("head", "body"), BODIES)
def test_bodies(head: str, body: bytes) -> None:
    found = mail(f"Subject: s\nMIME-Version: 1.0\n{head}", body).body
    lines = [" ".join(line.split()) for line in found.splitlines() if line.strip()]
    assert lines == ["Job 33", "Exit Status = 0 grün"]
    assert "\r" not in found


def test_what_is_beyond_the_limit_is_not_looked_at() -> None:
    found = mail("Subject: s", b"x" * BODY_LIMIT + b"\nPBS Job Id: 1\n")
    assert "PBS" not in found.body


@pytest.mark.parametrize(
    ("raw", "sender"),
    [
        ("From: slurm@cluster.test", "slurm@cluster.test"),
        ("From: SLURM User <Slurm@Cluster.TEST>", "slurm@cluster.test"),
        ('From: "admin@site.test" <mallory@elsewhere.test>', "mallory@elsewhere.test"),
        ("From: a@b.test, c@d.test", ""),
        ("From: a@b.test\nFrom: c@d.test", ""),
        ("From: =?utf-8?Q?J=C3=B6rg?= <joerg@b.test>", "joerg@b.test"),
        ("X: y", ""),
    ],
)
def test_senders(raw: str, sender: str) -> None:
    assert mail(raw).sender == sender


@pytest.mark.parametrize(
    ("date", "at"),
    [
        ("Tue, 06 May 2031 11:59:00 +0000", ARRIVED - timedelta(minutes=1)),
        ("Tue, 06 May 2031 13:59:00 +0200", ARRIVED - timedelta(minutes=1)),
        ("Tue, 06 May 2031 11:59:00 -0000", ARRIVED - timedelta(minutes=1)),
        ("Tue, 06 May 2031 12:59:00 +0000", ARRIVED),
        ("Sat, 01 Jan 2000 00:00:00 +0000", ARRIVED),
        ("yesterday", ARRIVED),
        ("Tue, 99 May 9999999 11:59:00 +9999", ARRIVED),
        ("", ARRIVED),
    ],
)
def test_moments(date: str, at: datetime) -> None:
    assert mail(f"Date: {date}").at == at


RESULTS = """
Authentication-Results: mx.site.test 1; spf=pass (sender (is) fine) smtp.mailfrom=x@cluster.test;
 dkim=fail header.d=cluster.test
Authentication-Results: mx.site.test; dmarc=pass header.from=cluster.test
Authentication-Results: evil.test; dmarc=pass header.from=cluster.test
"""


def test_verdicts_are_the_topmost_of_each_server() -> None:
    found = mail(f"From: a@cluster.test{RESULTS}")
    assert found.verdicts == (
        Verdict("mx.site.test", "spf", "pass", "cluster.test"),
        Verdict("mx.site.test", "dkim", "fail", "cluster.test"),
        Verdict("evil.test", "dmarc", "pass", "cluster.test"),
    )


@pytest.mark.parametrize(
    ("sender", "results", "authentic"),
    [
        ("a@cluster.test", "mx.test; dmarc=pass header.from=cluster.test", True),
        ("a@cluster.test", "MX.test; dkim=pass header.d=cluster.test", True),
        ("a@node.cluster.test", "mx.test; dkim=pass header.d=cluster.test", True),
        ("a@cluster.test", "mx.test; spf=pass smtp.mailfrom=b@cluster.test", True),
        ("a@cluster.test", "mx.test; spf=pass smtp.mailfrom=b@elsewhere.test", False),
        ("a@cluster.test", "mx.test; dkim=pass header.d=ter.test", False),
        ("a@cluster.test", "mx.test; dkim=fail header.d=cluster.test", False),
        ("a@cluster.test", "mx.test; none", False),
        ("a@cluster.test", "other.test; dmarc=pass header.from=cluster.test", False),
        ("", "mx.test; spf=pass smtp.mailfrom=", False),
    ],
)
def test_authentic(sender: str, results: str, authentic: bool) -> None:
    found = mail(f"From: {sender}\nAuthentication-Results: {results}")
    assert is_authentic(found, "mx.test") is authentic


def test_a_digest_is_a_messages_own() -> None:
    first, again, other = (mail(f"Subject: s\nMessage-ID: <{name}>") for name in ("1", "1", "2"))
    moved = read(b"Subject: s\r\nMessage-ID: <1>\r\n\r\n", ARRIVED + timedelta(days=1))
    assert first.digest == again.digest == moved.digest != other.digest


@settings(max_examples=100)
@given(
    st.binary(max_size=400)
    | st.lists(
        st.sampled_from(
            [each.encode() for each, _ in BODIES]
            + [
                b"Subject: =?utf-8?B?",
                b"From: <<>@@",
                b"Date: ,",
                b"\r\n",
                b"\n\n",
                b"--b",
                b"\xff\xfe",
                b"=?utf-7?Q?+AGE-?=",
                b"Content-Type: multipart/mixed; boundary=b",
                b"Content-Transfer-Encoding: base64",
                b"Authentication-Results: ;=;",
            ]
        )
    ).map(b"\r\n".join)
)
def test_any_bytes_are_read(raw: bytes) -> None:
    found = read(raw, ARRIVED)
    assert "\n" not in found.subject
    found.body.encode()
    assert found.at.tzinfo is not None
    subject_of(raw).encode()
