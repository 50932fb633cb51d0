"""A page in a real browser, without a display: what it says, shows, prints and asks the network."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from urllib.parse import urlsplit

from support import missing

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    # nothing reaches a network, neither what the page asks for nor the browser's own
    "--proxy-server=127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>",
)
OWN = ("google.com", "googleapis.com", "gvt1.com")
"""Where the browser itself would ask for updates and the time."""


class Browser:
    """Chromium with a profile of its own in ``folder``."""

    def __init__(self, folder):
        self.program = shutil.which("chromium") or shutil.which("google-chrome")
        if self.program is None:
            missing("chromium")
        self.folder = folder

    def run(self, page, *flags):
        """(stdout, stderr) of a visit."""
        command = [self.program, *FLAGS, f"--user-data-dir={self.folder}", *flags, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
        return done.stdout, done.stderr

    def console(self, page):
        """What it writes to the console, broken rules of its own policy among it."""
        _, said = self.run(page, "--enable-logging=stderr", "--dump-dom")
        return re.findall(r"CONSOLE[^\]]*\] (.*)", said)

    def requests(self, page):
        """URLs that it asks for, itself and pictures inside it apart."""
        log = self.folder / "net.json"
        self.run(page, f"--log-net-log={log}", "--dump-dom")
        urls = set(re.findall(r'"url":"([^"]+)"', log.read_text("utf-8")))
        asked = {urlsplit(url) for url in urls}
        return {
            url.geturl()
            for url in asked
            if url.scheme in ("http", "https", "ws", "wss")
            and not (url.hostname or "").endswith(OWN)
        }

    def axe(self, page, source):
        """Violations that axe-core finds; ``source``: its script."""
        html = page.read_text("utf-8")
        html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
        run = (
            "axe.run().then(r => { document.body.textContent = 'FOUND' + JSON.stringify("
            "{rules: r.passes.map(p => p.id), violations: r.violations.map(v => "
            "[v.id, v.nodes.map(n => n.html.slice(0, 200))])}) + 'END'; })"
        )
        copy = self.folder / "axe.html"
        copy.write_text(
            html.replace("</body>", f"<script>{source}</script><script>{run}</script></body>"),
            "utf-8",
        )
        dom, _ = self.run(copy, "--virtual-time-budget=60000", "--dump-dom")
        found = re.search(r"FOUND(.*)END", dom, re.DOTALL)
        assert found, dom[-2000:]
        return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))

    def pdf(self, page):
        """What it prints."""
        out = self.folder / "printed.pdf"
        self.run(page, "--no-pdf-header-footer", f"--print-to-pdf={out}")
        return out.read_bytes()
