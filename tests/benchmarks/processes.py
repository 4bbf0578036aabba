"""Whole families of processes: quiet while the other side is measured, and what they have used of the cores."""

from collections.abc import Iterable

import psutil


def family(roots: Iterable[int]) -> list[psutil.Process]:
    """Return these processes and everything beneath them, parents first."""
    found: list[psutil.Process] = []
    for pid in roots:
        try:
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def freeze(roots: Iterable[int]) -> None:
    """Stop them where they are (SIGSTOP), until nothing new has appeared meanwhile."""
    roots, frozen = list(roots), set[int]()
    while new := [process for process in family(roots) if process.pid not in frozen]:
        for process in new:
            frozen.add(process.pid)
            try:
                process.suspend()
            except psutil.NoSuchProcess:
                continue


def thaw(roots: Iterable[int]) -> None:
    """Let them go on."""
    for process in family(roots):
        try:
            process.resume()
        except psutil.NoSuchProcess:
            continue


def cpu_seconds(roots: Iterable[int]) -> float:
    """Return the core time that they have used so far, with that of children which have ended."""
    total = 0.0
    for process in family(roots):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total
