/** Run-length coding of label values: pairs of value (one byte) and length (LEB128). What undo keeps and gzip likes. */

/** Codes runs as they come; neighbours of the same value become one. */
export class RunWriter {
  #out = new Uint8Array(64);
  #size = 0;
  #value = 0;
  #length = 0;

  add(value: number, length: number): void {
    if (value !== this.#value) {
      this.#flush();
      this.#value = value;
    }
    this.#length += length;
  }

  finish(): Uint8Array {
    this.#flush();
    return this.#out.slice(0, this.#size);
  }

  #flush(): void {
    let length = this.#length;
    if (length === 0) return;
    if (this.#size + 6 > this.#out.length) {
      const larger = new Uint8Array(this.#out.length * 2);
      larger.set(this.#out);
      this.#out = larger;
    }
    this.#out[this.#size++] = this.#value;
    while (length >= 128) {
      this.#out[this.#size++] = (length & 127) | 128;
      length >>>= 7;
    }
    this.#out[this.#size++] = length;
    this.#length = 0;
  }
}

export function encodeRuns(values: Uint8Array): Uint8Array {
  const runs = new RunWriter();
  for (let i = 0; i < values.length; ) {
    const value = values[i]!;
    let end = i + 1;
    while (end < values.length && values[end] === value) end++;
    runs.add(value, end - i);
    i = end;
  }
  return runs.finish();
}

/** The inverse of `encodeRuns`. Throws when the runs are not exactly `length` values. */
export function decodeRuns(runs: Uint8Array, length: number): Uint8Array {
  const values = new Uint8Array(length);
  let at = 0;
  for (let i = 0; i < runs.length; ) {
    const value = runs[i++]!;
    let count = 0;
    let shift = 0;
    for (;;) {
      if (i >= runs.length) throw new RangeError("The runs are cut short.");
      const byte = runs[i++]!;
      count += (byte & 127) * 2 ** shift;
      if (byte < 128) break;
      shift += 7;
    }
    if (at + count > length) throw new RangeError("The runs hold more values than they should.");
    values.fill(value, at, at + count);
    at += count;
  }
  if (at !== length) throw new RangeError("The runs hold fewer values than they should.");
  return values;
}
