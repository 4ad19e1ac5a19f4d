"""Headless Chromium driven over two pipes by its DevTools protocol: open a page, choose a file in it, read it, draw it."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe")
PATIENCE = 60.0


class Browser:
    """One page of a Chromium of its own; `asked` are the addresses that the page has asked for."""

    def __init__(self, chromium: str, profile: Path, *, width: int = 760, height: int = 880) -> None:
        to_child, from_child = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_child[0], from_child[1])]  # above 3 and 4, where Chromium looks

        def place() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen([chromium, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"],
                                        preexec_fn=place, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (to_child[0], from_child[1], *ends):
            os.close(end)
        self.to_child, self.from_child = to_child[1], from_child[0]
        self.rest, self.number, self.session, self.asked = b"", 0, "", list[str]()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters, **({"sessionId": self.session} if self.session else {})}
        os.write(self.to_child, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            answer = self._message(end)
            if answer.get("method") == "Network.requestWillBeSent":
                self.asked.append(answer["params"]["request"]["url"])
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _message(self, end: float) -> dict[str, Any]:
        while b"\0" not in self.rest:
            if not select.select([self.from_child], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium says nothing for {PATIENCE:.0f} s")
            part = os.read(self.from_child, 1 << 20)
            if not part:
                raise RuntimeError(f"Chromium has ended ({self.process.poll()})")
            self.rest += part
        line, self.rest = self.rest.split(b"\0", 1)
        return dict(json.loads(line))

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is worth in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression} never came true; the page says: {self.value('document.body?.innerText')}")
            time.sleep(0.05)

    def choose(self, selector: str, file: Path) -> None:
        """Put a file into an <input type=file>, as a person does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def draw(self, file: Path) -> None:
        """A PNG of the page."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """End the browser."""
        os.close(self.to_child)
        os.close(self.from_child)
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)
