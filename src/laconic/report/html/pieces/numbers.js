// Numbers: three significant digits and a unit, as report/html/numbers.py writes them.
const SPACE = "\u00a0", JOIN = "\u2060";
const UNITS = [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const SIZES = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]];

const grouped = (number) => String(Math.round(number)).replace(/\B(?=(\d{3})+$)/g, ",");

function digits(number, decimals = 9) {
  if (!number) return "0";
  const rounded = Number(number.toPrecision(3)), size = Math.abs(rounded);
  if (size >= 100) return grouped(rounded);
  let places = size >= 10 ? 1 : 2;
  for (let rest = size; rest < 1 && places < decimals; rest *= 10) places += 1;
  return rounded.toFixed(Math.min(places, decimals));
}

const count = (number) => (number < 10000 ? grouped(number) : digits(number));
const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many || one + "s"}`;
// The largest unit of which it is half or more.
const unitOf = (cycles) => UNITS.find((each) => cycles >= each[0] / 2) || UNITS[3];

function ends(first, last, letter) {
  const text = first === last ? first : `${first}${JOIN}–${JOIN}${last}`;
  return letter ? `${text}${SPACE}${letter}` : text;
}

function cycles(low, high, unit) {
  if (!high) return "0";
  const [scale, letter] = unit || unitOf(high);
  if (high < scale / 100 && scale > 1) return ends("<0.01", "<0.01", letter);
  const decimals = scale > 1 ? 3 : 0, last = digits(high / scale, decimals);
  const first = low > 0 && low < scale / 1000 ? "<0.001" : digits(low / scale, decimals);
  return ends(first, last, letter);
}

function seconds(low, high) {
  if (!high) return `0${SPACE}s`;
  const scales = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]];
  const [scale, letter] = scales.find((each) => high / data.clock >= each[0] / 10) || scales[3];
  return ends(digits(low / data.clock / scale), digits(high / data.clock / scale), letter);
}

function times(low, high) {
  return low >= 1000 ? `>1,000${SPACE}×` : ends(digits(low), digits(high), "×");
}

function bytes(pages) {
  const found = SIZES.find(([scale]) => pages * 4096 >= scale);
  return found ? `${digits(pages * 4096 / found[0])}${SPACE}${found[1]}` : "0";
}

function share(part, whole) {
  const percent = whole ? 100 * part / whole : 0;
  let text = percent.toFixed(0);
  if (!percent) text = "0";
  else if (percent < 0.1) text = "<0.1";
  else if (percent >= 99.95) text = "100";
  else if (percent < 9.95 || percent > 99) text = percent.toFixed(1);
  return `${text}${SPACE}%`;
}

function duration(microseconds) {
  if (microseconds >= 1e6) return `${digits(microseconds / 1e6)}${SPACE}s`;
  return microseconds >= 1e3 ? `${digits(microseconds / 1e3)}${SPACE}ms` : `${digits(microseconds)}${SPACE}µs`;
}

const hex = (page) => "0x" + (BigInt(page) << 12n).toString(16);
const PERMISSIONS = ["no access", "read", "write", "read, write", "execute", "read, execute", "write, execute", "read, write, execute"];
