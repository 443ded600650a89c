#!/usr/bin/env bash
# importlib.util.LazyLoader imports a module at the first access to one of its attributes. A second thread that uses the module
# while the first one imports it does not wait, as it would for a plain import: it is told that there is no such attribute.
set -euo pipefail

python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

echo "Expected: both threads read the value, the second one after the import that the first one began."
cd "$work"
printf 'import time\n\ntime.sleep(1)\nvalue = 1\n' >slow_module.py
"$python" - <<'PYTHON'
import importlib.util
import sys
import threading
import time

spec = importlib.util.find_spec("slow_module")
spec.loader = loader = importlib.util.LazyLoader(spec.loader)
module = importlib.util.module_from_spec(spec)
sys.modules["slow_module"] = module
loader.exec_module(module)
answers = {}


def use(name, wait):
    time.sleep(wait)
    try:
        answers[name] = module.value
    except AttributeError as error:
        answers[name] = f"AttributeError: {error}"


threads = [threading.Thread(target=use, args=args) for args in (("first", 0), ("second", 0.3))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"Python {sys.version.split()[0]}: {answers}")
if answers["first"] != 1 or answers["second"] != "AttributeError: module 'slow_module' has no attribute 'value'":
    sys.exit("This finding no longer holds.")
PYTHON
