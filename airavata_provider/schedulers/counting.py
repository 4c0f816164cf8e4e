"""How adaptors count everybody's jobs: on the login node, so that a long queue is one short line here.

Pure; no Airflow.
"""

from __future__ import annotations

from airavata_provider.schedulers.base import quote

LIMIT_S = 5
"""Seconds that one command may take: whoever asks waits for two of them and the way there."""

COUNTED = "counted"
"""The last line of a count that had its whole input."""

ELEMENTS = (
    'function elements(t,n,p,i,r,c){sub(/[]%].*/,"",t);n=split(t,p,",");c=0;'
    "for(i=1;i<=n;i++)c+=split(p[i],r,/[-:]/)>1?int((r[2]-r[1])/(r[3]>0?r[3]:1))+1:1;return c}"
)
"""An awk function: how many elements ``4-9,12``, ``0-8:4`` and ``4-9,12%2]`` are."""


def counted(command: str, program: str, separator: str = " ") -> str:
    """Shell lines that send a command's answer through an awk program; their status is the command's.

    The program's last word is :data:`COUNTED`: without it nothing was counted, which is not the same as none.

    :param command: one, with its words quoted
    :param separator: between a line's fields
    """
    # Its standard output goes through the filter, its status past it.
    return (
        "exec 5>&1\n"
        f"airavata_left=$({{ {{ {command}; echo $? >&4; }} "
        f"| awk -F {quote(separator)} {quote(program)} >&5; }} 4>&1)\n"
        'exit "$airavata_left"'
    )
