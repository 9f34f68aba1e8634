# redis-py's Lock, told what to do line by line.
import sys

import redis

client = redis.Redis(port=int(sys.argv[1]))
lock = None
for line in sys.stdin:
    word, *rest = line.split()
    if word == "acquire":
        name, ttl, patience = rest
        lock = client.lock(name, timeout=float(ttl) or None, blocking_timeout=float(patience), sleep=0.005)
        print("yes" if lock.acquire() else "no", flush=True)
    elif word == "release":
        try:
            lock.release()
            print("released", flush=True)
        except redis.exceptions.LockError as error:
            print(f"lost: {error}", flush=True)
