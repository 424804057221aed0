// The two scales on which calls lie: time, and the order of the calls.
const total = data.summary.calls;
const timed = data.time !== null;

// The time of a call in microseconds, by its number; between the moments that are known, on a straight line.
function timeOf(call) {
  const {step, microseconds, last} = data.moments;
  const place = call / step, low = Math.floor(place);
  if (low >= microseconds.length - 1) {
    const known = microseconds.length - 1, end = Math.max(total - 1, known * step + 1);
    const part = Math.min(Math.max((call - known * step) / (end - known * step), 0), 1);
    return microseconds.length ? microseconds[known] + (last - microseconds[known]) * part : 0;
  }
  return microseconds[low] + (microseconds[low + 1] - microseconds[low]) * (place - low);
}

const scales = {
  time: {
    length: Math.max(data.moments.last, 1),
    of: timeOf,
    text: (at) => duration(at),
  },
  order: {
    length: Math.max(total, 1),
    of: (call) => call,
    text: (at) => `call ${count(at)}`,
  },
};

function ticks(low, high, most) {
  const rough = (high - low) / Math.max(most, 1);
  if (!(rough > 0)) return [];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((each) => each >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  return found;
}
