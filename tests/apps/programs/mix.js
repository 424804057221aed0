// Worker threads, transferred and shared buffers, WebAssembly memory that grows, a child process.
'use strict';
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const { spawnSync } = require('child_process');
const crypto = require('crypto');

function churn(seed) {
  let total = 0;
  for (let step = 0; step < 60; step++) {
    const block = Buffer.alloc(200000 + 4096 * ((seed + step) % 9), seed & 255);
    total += block[step] + block[block.length - 1];
    const rows = [];
    for (let n = 0; n < 1500; n++) rows.push({ id: n, text: `row ${n * seed}` });
    total += JSON.parse(JSON.stringify(rows)).reduce((sum, row) => sum + row.text.length, 0);
  }
  return total;
}

if (!isMainThread) {
  const shared = new Int32Array(workerData.shared);
  for (let n = 0; n < 1000; n++) Atomics.add(shared, 0, workerData.seed);
  const result = Buffer.from(String(churn(workerData.seed)));
  const copy = new Uint8Array(result).buffer;
  parentPort.postMessage({ seed: workerData.seed, copy }, [copy]);
} else {
  const shared = new SharedArrayBuffer(4096);
  const results = [1, 2, 3].map((seed) => new Promise((resolve, reject) => {
    const worker = new Worker(__filename, { workerData: { seed, shared } });
    worker.once('message', (message) => worker.once('exit', () => resolve(message)));
    worker.once('error', reject);
  }));
  Promise.all(results).then((messages) => {
    for (const { seed, copy } of messages) console.log('worker', seed, Buffer.from(copy).toString());
    console.log('shared', new Int32Array(shared)[0]);
    console.log('main', churn(7));
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 256 });
    for (let pages = 1; pages <= 128; pages *= 2) {
      memory.grow(pages);
      new Uint8Array(memory.buffer).fill(pages & 255, memory.buffer.byteLength - 65536);
    }
    const hash = crypto.createHash('sha256').update(new Uint8Array(memory.buffer)).digest('hex');
    console.log('memory', memory.buffer.byteLength, hash);
    const child = spawnSync(process.execPath, ['-e', 'process.stdout.write("child"); process.exit(4)']);
    console.log(child.stdout.toString(), child.status);
    process.exitCode = 8;
  });
}
