"""Runs the parts, each in a process, within some minutes.

    python -m scm_jax.acceptance.main --minutes=25 --out=runs/accelerator

It imports no jax: the devices belong to the parts' processes.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from scm_jax import files
from scm_jax.acceptance import page, parts, record
from scm_jax.errors import UserError, hint, is_installed

NEEDED = ("jax", "flax", "optax", "orbax")  # by every part
FIRST = "machine"
# They end a part, too, which has a group of processes of its own.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: list[str] | None = None) -> int:
  """Runs what is left to do; returns 1 if a part or a check failed."""
  parser = argparse.ArgumentParser(prog="launch/accelerator.sh")
  parser.add_argument("--minutes", type=float, default=25.0)
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--tiny", action="store_true")
  parser.add_argument("--parts", default="", help="names, A,B,...")
  args = parser.parse_args(argv)
  names = list(parts.TINY if args.tiny else parts.PARTS)
  names = list(dict.fromkeys(args.parts.split(","))) if args.parts else names
  if missing := [n for n in NEEDED if not is_installed(n)]:
    _say(f"not installed: {', '.join(missing)}; nothing can be measured")
    return 1
  if unknown := set(names) - set(parts.PARTS):
    name = min(unknown)
    parser.error(f"--parts: there is no {name!r}; {hint(name, parts.PARTS)}")
  args.out.mkdir(parents=True, exist_ok=True)
  try:
    book = record.Record(args.out, args.tiny)
    return _measure(book, names, args)
  except UserError as error:
    _say(str(error))
    return error.exit_code


def _measure(
  book: record.Record, names: list[str], args: argparse.Namespace
) -> int:
  """Runs what is left of these parts; returns 1 if one or a check failed.

  Raises:
    UserError: the folder cannot be written.
  """
  end = time.monotonic() + 60 * args.minutes

  shown = [n for n in parts.PARTS if n in names or n in book.parts]

  def save() -> None:
    book.write()
    files.write_text(args.out / page.FILE, page.page(book, shown))

  save()
  share = 0.1 if args.tiny else 1.0  # of the time that a part usually takes
  left = book.remaining(names)
  for name in sorted(left, key=lambda name: name != FIRST):
    if end - time.monotonic() < 60 * share * parts.PARTS[name].minutes:
      continue  # a shorter one may still fit
    run(name, book.part(name), save, args.out, end, args.tiny)
    save()
    if name == FIRST and book.state(name) == record.FAILED:
      break  # there is nothing that could be measured
  failures = book.failures()
  left = book.remaining(names)
  left = [name for name in left if book.state(name) != record.IMPOSSIBLE]
  if left:
    _say(f"not done: {', '.join(left)}; the same command continues")
  usual = {name: share * parts.PARTS[name].minutes for name in left}
  if long := [f"{n} ({m:g})" for n, m in usual.items() if m >= args.minutes]:
    _say(f"not begun unless --minutes is more than: {', '.join(long)}")
  for failure in failures:
    _say(f"failed: {failure}")
  _say(f"the page is {args.out / page.FILE}, its numbers {record.FILE}")
  return 1 if failures else 0


def run(
  name: str,
  entry: dict[str, Any],
  save: Callable[[], None],
  out: pathlib.Path,
  end: float,
  tiny: bool,
) -> None:
  """Runs one part in a process until `end`, on `time.monotonic`'s clock.

  What it yields goes into its entry of the record, which `save` writes after
  each result; what it says goes to the log in `out`.
  """
  part = parts.PARTS[name]
  entry.pop("why", None)
  if missing := part.missing():
    entry["state"] = record.IMPOSSIBLE
    entry["why"] = f"not installed: {', '.join(missing)}"
    _say(f"{part.title}: {entry['why']}")
    return
  _say(f"{part.title} ...")
  start, log = time.monotonic(), out / "accelerator.log"
  lines: list[str] = []
  with log.open("a") as errors:
    errors.write(f"==> {name}\n")
    errors.flush()
    process = subprocess.Popen(
      [sys.executable, "-m", "scm_jax.acceptance.worker"],
      env=_environment(part),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
      process_group=0,  # so that its own processes end with it
    )
    timer = threading.Timer(end - start, _kill, [process])
    timer.start()
    try:
      assert process.stdin and process.stdout
      request = {
        "module": part.module,
        "options": dict(part.options),
        "tiny": tiny,
        "have": entry["results"],
        "out": str(out),
      }
      process.stdin.write(json.dumps(request))
      process.stdin.close()
      for line in process.stdout:
        if not _take(line, entry["results"]):
          lines.append(line.strip())
        save()
      process.wait()
    finally:
      _kill(process)
      timer.cancel()
  entry["seconds"] += time.monotonic() - start
  entry["state"] = record.DONE
  if process.returncode:
    late = time.monotonic() >= end
    entry["state"] = record.CUT if late else record.FAILED
    if not late:
      code = f"its process ended with code {process.returncode}"
      entry["why"] = next(filter(None, reversed(lines)), code)[:400]
  ended = f"{part.title}: {entry['state']} after {entry['seconds']:.0f} s"
  _say(": ".join(filter(None, (ended, entry.get("why")))))


def _take(line: str, results: dict[str, Any]) -> bool:
  """Records a result that a part's process prints; False for other lines."""
  try:
    said = json.loads(line)
    results[said["key"]] = said["value"]
  except (ValueError, TypeError, KeyError):
    return False
  return True


def _environment(part: parts.Part) -> dict[str, str]:
  """Returns the variables of a part's process."""
  env = dict(os.environ)
  if part.devices:  # as much of the memory as `plan` counts with
    env.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
  platforms = env.get("JAX_PLATFORMS", "")
  if platforms and "cpu" not in platforms:
    env["JAX_PLATFORMS"] = f"{platforms},cpu"  # which counts operations
  if part.flags:
    env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {part.flags}".strip()
  return env


def _kill(process: subprocess.Popen) -> None:
  """Ends a process and all that it has started."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)


def _say(text: str) -> None:
  print(f"accelerator: {text}", file=sys.stderr, flush=True)


def _stop(number: int, frame: FrameType | None) -> None:
  """Ends the call, and with it the part that runs."""
  for again in SIGNALS:
    signal.signal(again, signal.SIG_IGN)
  with contextlib.suppress(OSError):  # the terminal is gone after SIGHUP
    _say("stopped; the same command goes on")
  sys.exit(128 + number)


if __name__ == "__main__":
  for number in SIGNALS:
    if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has SIGHUP
      signal.signal(number, _stop)
  sys.exit(main())
