"""Large arrays that are mapped, remapped and given back, a memory-mapped array, and matrix
products."""

import numpy as np

total = 0
for step in range(40):
    block = np.arange(50_000 + 37_000 * (step % 9), dtype=np.int64)
    total += int((block * 3 + step).sum())
print("sums", total)

grown = np.zeros(1000, dtype=np.int64)
for size in range(50_000, 800_000, 50_000):
    grown.resize(size, refcheck=False)
    grown[-1] = size
print("grown", int(grown.sum()))

left = np.arange(250_000, dtype=np.int64).reshape(500, 500) % 17
right = np.arange(250_000, dtype=np.int64).reshape(500, 500) % 13
product = left.astype(np.float64) @ right.astype(np.float64)
print("product", int(product.sum()), int(np.trace(product)))

mapped = np.memmap("mapped.npy", dtype=np.int32, mode="w+", shape=(300, 1000))
mapped[:] = np.arange(300_000, dtype=np.int32).reshape(300, 1000)
mapped.flush()
again = np.memmap("mapped.npy", dtype=np.int32, mode="c", shape=(300, 1000))
again[0, :] = 7
print("mapped", int(mapped.sum()), int(again.sum()))

random = np.random.default_rng(20).integers(0, 1 << 30, 200_000)
print("sorted", int(np.sort(random)[::1000].sum()), len(np.unique(random % 5000)))
print("fft", round(float(np.abs(np.fft.fft(np.arange(65536) % 100)).max())))
