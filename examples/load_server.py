"""Many clients at once on a server of `scm-jax serve`: errors, times, memory.

    scm-jax serve --no-browser &
    python examples/load_server.py --pid=$! --clients=32 --seconds=60

Each client drags a slider: it sends a request as soon as it has an answer, and
every third time two at once, of which the server may drop the first.
"""

import argparse
import asyncio
import json
import pathlib
import struct
import time
import urllib.request

import numpy as np
import websockets


def memory(pid: int) -> float:
  """Returns the memory that a process has in use, in MB."""
  for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
    if line.startswith("VmRSS:"):
      return int(line.split()[1]) / 1024
  raise SystemExit(f"process {pid} has no memory")


async def drag(address: str, model: str, end: float, tally: dict) -> None:
  """Sends requests of one client until the end, and counts the answers."""
  url = address.replace("http", "ws", 1) + "api/stream"
  async with websockets.connect(url, max_size=None) as socket:
    number = 0
    while time.perf_counter() < end:
      begin = time.perf_counter()
      for _ in range(2 if number % 3 == 0 else 1):
        number += 1
        body = {"action": "sample", "view": "grid", "id": number}
        body |= {"model": model, "num": 16, "seed": number}
        await socket.send(json.dumps(body))
      while True:
        data = await socket.recv()
        if isinstance(data, str):
          note = json.loads(data)
          tally["dropped"] += "dropped" in note
          tally["errors"] += "error" in note
          if "error" not in note:
            continue
          break
        (length,) = struct.unpack("<I", data[:4])
        if json.loads(data[4 : 4 + length])["id"] == number:
          tally["waits"].append(time.perf_counter() - begin)
          break


async def run(args: argparse.Namespace) -> dict:
  """Returns what all clients together saw."""
  args.address = args.address.rstrip("/") + "/"
  with urllib.request.urlopen(f"{args.address}api/models") as answer:
    models = json.load(answer)["models"]
  few = [model["name"] for model in models if model["few_steps"]]
  model = (few or [models[0]["name"]])[0]
  tally: dict = {"waits": [], "dropped": 0, "errors": 0}
  end = time.perf_counter() + args.seconds
  drags = [drag(args.address, model, end, tally) for _ in range(args.clients)]
  await asyncio.gather(*drags)
  return tally


def main() -> None:
  """Prints one line of figures; fails if a request failed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--address", default="http://127.0.0.1:8000/")
  parser.add_argument("--clients", type=int, default=32)
  parser.add_argument("--seconds", type=float, default=60)
  parser.add_argument("--pid", type=int, required=True, help="the server's")
  args = parser.parse_args()
  asyncio.run(run(argparse.Namespace(**vars(args) | {"seconds": 3})))  # warm
  before = memory(args.pid)
  tally = asyncio.run(run(args))
  p50, p99 = 1e3 * np.percentile(tally["waits"], [50, 99])
  print(
    f"{args.clients} clients, {args.seconds:g} s: {len(tally['waits'])} answers"
    f" of 16 images, p50 {p50:.0f} ms, p99 {p99:.0f} ms; {tally['dropped']} "
    f"dropped as stale, {tally['errors']} errors; memory {before:.0f} MB "
    f"before, {memory(args.pid):.0f} MB after"
  )
  if tally["errors"]:
    raise SystemExit("some requests failed")


if __name__ == "__main__":
  main()
