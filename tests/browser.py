"A page in headless Chromium, driven through its debugging protocol: real keys and pointers, and real time."

import functools
import http.server
import json
import shutil
import subprocess
import threading
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    "Serves files without a log, and lets nothing be kept by the browser."

    def log_message(self, *args):
        pass

    def end_headers(self):
        self.send_header("Cache-Control", "no-store")
        super().end_headers()


class Browser:
    "Chromium with one page, and a server of a folder. Close it after use."

    def __init__(self, folder: Path):
        import websocket  # here, as Chromium also shows pages without it

        handler = functools.partial(Quiet, directory=folder)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.profile = TemporaryDirectory(ignore_cleanup_errors=True)
        debugging = ("--remote-debugging-port=0", "--remote-allow-origins=*")
        command = [CHROMIUM, *FLAGS, *debugging, f"--user-data-dir={self.profile.name}", "about:blank"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = next(line for line in self.process.stderr if "DevTools listening on" in line)
        threading.Thread(target=self.process.stderr.read, daemon=True).start()  # else Chromium would wait for a reader
        listed = line.split()[-1].replace("ws://", "http://").split("/devtools")[0] + "/json"
        with urllib.request.urlopen(listed) as answer:
            pages = [target for target in json.load(answer) if target["type"] == "page"]
        self.socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=300)
        self.number = 0
        self.events = []
        for domain in ("Page", "Runtime", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters) -> dict:
        "One command of the protocol. Raises `RuntimeError` with what the browser says."
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") != self.number:
                self.events.append(message)
            elif "error" in message:
                raise RuntimeError(message["error"])
            else:
                return message["result"]

    def open(self, path: str, width: int = 1200, height: int = 900) -> None:
        "Show a page of the folder in a window of this size, and wait until it is loaded."
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.events.clear()
        self("Page.navigate", url=f"http://127.0.0.1:{self.server.server_port}/{path}")
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def run(self, expression: str):
        "The value of a JavaScript expression, or of its promise. Raises `RuntimeError` with what it throws."
        answer = self("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        "Press and release a key such as ArrowRight, 39."
        for kind in ("rawKeyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        "Drag from one point of the window to another, in steps."
        button = {"button": "left", "clickCount": 1}
        self("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], **button)
        for step in range(1, 6):
            x, y = (a + (b - a) * step / 5 for a, b in zip(start, end))
            self("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], **button)

    def received(self) -> int:
        "Bytes that the page has taken from the network since it was opened."
        done = [event["params"] for event in self.events if event["method"] == "Network.loadingFinished"]
        return int(sum(event["encodedDataLength"] for event in done))

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait()
        self.profile.cleanup()
        self.server.shutdown()
        self.server.server_close()
