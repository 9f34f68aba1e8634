# kazoo's Lock, told what to do line by line.
import sys

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, LockTimeout

client = KazooClient(hosts=f"127.0.0.1:{sys.argv[1]}", timeout=4.0)
client.start()
patterns = sys.argv[2:]
lock = None
for line in sys.stdin:
    word, *rest = line.split()
    if word in ("acquire", "again"):
        path, patience = rest
        if word == "acquire":
            lock = client.Lock(path, "kazoo", extra_lock_patterns=patterns)
        try:
            print("yes" if lock.acquire(timeout=float(patience)) else "no", flush=True)
        except LockTimeout:
            print("no", flush=True)
        except KazooException as error:
            print(type(error).__name__, flush=True)
    elif word == "contenders":
        print(len(lock.contenders()), flush=True)
    elif word == "release":
        print("released" if lock.release() else "lost", flush=True)
