#!/usr/bin/env bash
# A Dropdown sends its "input" event when it is left, although nothing was chosen: whoever tabs through a form calls what is to
# follow a choice. Needs a Chromium: in the PATH, or named in $CHROMIUM.
set -euo pipefail

packages=(gradio==6.31.0 playwright==1.65.2)
python="${PYTHON:-python3}"
if [ -z "${REUSE:-}" ]; then
    folder="$(mktemp -d)"
    trap 'rm -rf "$folder"' EXIT
    "$python" -m venv "$folder/venv"
    python="$folder/venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
fi
chromium="${CHROMIUM:-$(command -v chromium || command -v chromium-browser)}"

echo "Expected: input is sent when a person chooses or types something, and not otherwise."
CHROMIUM="$chromium" GRADIO_ANALYTICS_ENABLED=False "$python" -W ignore - <<'PYTHON'
import os
import sys

import gradio as gr
from playwright.sync_api import sync_playwright

print(f"gradio {gr.__version__}")
KINDS = {"plain": {}, "not filterable": {"filterable": False}, "custom values": {"allow_custom_value": True}}
with gr.Blocks() as page:
    counters = {name: gr.Number(0, elem_id=f"n{place}") for place, name in enumerate(KINDS)}
    for place, (name, options) in enumerate(KINDS.items()):
        choice = gr.Dropdown(["a", "b", "c"], value="b", interactive=True, elem_id=f"list{place}", **options)
        choice.input(lambda count: count + 1, counters[name], counters[name])
_, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
counts = {}
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=["--no-sandbox"])
    tab = browser.new_page()
    tab.goto(address)
    tab.wait_for_selector("#list0 input")
    tab.wait_for_timeout(1000)
    for place, name in enumerate(KINDS):
        tab.focus(f"#list{place} input")
        tab.wait_for_timeout(400)
        tab.keyboard.press("Tab")
        tab.wait_for_timeout(1500)
        counts[name] = tab.input_value(f"#n{place} input"), tab.input_value(f"#list{place} input")
        print(f"{name}: entered and left, {counts[name][0]} input event, the list shows {counts[name][1]!r} as before")
    browser.close()
page.close()
print("Happens: each list sends one when it is left.")
if set(counts.values()) != {("1", "b")}:
    sys.exit("This finding no longer holds.")
PYTHON
