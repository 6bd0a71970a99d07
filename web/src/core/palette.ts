/** Label colours that people with any colour vision tell apart: Okabe and Ito (2008), then paler and darker turns. */

export type Colour = readonly [number, number, number];

const OKABE_ITO: readonly Colour[] = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [213, 94, 0],
  [204, 121, 167],
  [0, 114, 178],
];

/** The colour of label value n (1, 2, ...) where nobody chose one. */
export function paletteColour(value: number): Colour {
  const base = OKABE_ITO[(Math.max(1, value) - 1) % OKABE_ITO.length]!;
  const turn = Math.floor((Math.max(1, value) - 1) / OKABE_ITO.length) % 3;
  if (turn === 0) return base;
  const towards = turn === 1 ? 255 : 0;
  return [mixed(base[0], towards), mixed(base[1], towards), mixed(base[2], towards)];
}

function mixed(value: number, towards: number): number {
  return Math.round(value + (towards - value) * 0.4);
}

export function cssColour(colour: Colour): string {
  return `rgb(${colour[0]} ${colour[1]} ${colour[2]})`;
}

/** Contrast of two colours by WCAG 2.2, 1 to 21. */
export function contrast(a: Colour, b: Colour): number {
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}

function luminance(colour: Colour): number {
  const [r, g, b] = colour.map((value) => {
    const c = value / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
