/** Lines in SVG, with a table of the same numbers for everybody who does not see them. */

import { useSignal } from "@preact/signals";
import { cssColour, paletteColour } from "../core/palette";

export interface Line {
  readonly name: string;
  readonly points: readonly (readonly [number, number])[];
}

interface ChartProps {
  readonly title: string;
  readonly lines: readonly Line[];
  readonly xName: string;
  readonly height?: number;
  /** Highest y, where it is known: 1 for Dice. */
  readonly yMax?: number;
  readonly compact?: boolean;
  readonly empty: string;
}

const WIDTH = 560;
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "4 4", "1 4"];

export function Chart({ title, lines, xName, height = 200, yMax, compact = false, empty }: ChartProps) {
  const asTable = useSignal(false);
  const all = lines.flatMap((line) => line.points);
  if (all.length === 0) return <p class="note muted">{empty}</p>;
  const pad = compact ? { left: 30, right: 8, top: 8, bottom: 18 } : { left: 44, right: 14, top: 12, bottom: 30 };
  const [x0, x1] = spread(all.map(([x]) => x));
  const low = Math.min(0, ...all.map(([, y]) => y));
  const high = yMax ?? niceTop(Math.max(...all.map(([, y]) => y)));
  const px = (x: number) => pad.left + ((x - x0) / (x1 - x0)) * (WIDTH - pad.left - pad.right);
  const py = (y: number) => height - pad.bottom - ((y - low) / (high - low || 1)) * (height - pad.top - pad.bottom);
  const yTicks = compact ? [low, high] : [0, 0.25, 0.5, 0.75, 1].map((t) => low + t * (high - low));
  const xTicks = ticks(x0, x1, compact ? 4 : 8);
  return (
    <figure class="chart" data-points={all.length}>
      <figcaption class="row spread">
        <span>{title}</span>
        <button type="button" class="quiet small-text" aria-pressed={asTable.value} onClick={() => { asTable.value = !asTable.value; }}>{asTable.value ? "chart" : "table"}</button>
      </figcaption>
      {!asTable.value && (
        <svg viewBox={`0 0 ${WIDTH} ${height}`} role="img" aria-label={spoken(title, lines)}>
          {yTicks.map((y) => (
            <g key={y}><line class="grid" x1={pad.left} x2={WIDTH - pad.right} y1={py(y)} y2={py(y)} /><text x={pad.left - 6} y={py(y) + 4} text-anchor="end">{short(y)}</text></g>
          ))}
          {xTicks.map((x) => <text key={x} x={px(x)} y={height - pad.bottom + 15} text-anchor="middle">{short(x)}</text>)}
          {!compact && <text x={(WIDTH + pad.left) / 2} y={height - 2} text-anchor="middle">{xName}</text>}
          {lines.map((line, i) => {
            const colour = cssColour(paletteColour(i + 1));
            const path = line.points.map(([x, y], n) => `${n === 0 ? "M" : "L"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`).join(" ");
            return (
              <g key={line.name} data-series={line.name} data-count={line.points.length}>
                <path d={path} fill="none" stroke={colour} stroke-width="2" stroke-dasharray={DASHES[Math.floor(i / 7) % DASHES.length]} stroke-linejoin="round" />
                {(line.points.length < 40) && line.points.map(([x, y]) => <circle key={x} cx={px(x)} cy={py(y)} r="2.600" fill={colour} />)}
              </g>
            );
          })}
        </svg>
      )}
      <ul class="legend">
        {lines.map((line, i) => (
          <li key={line.name}>
            <svg width="18" height="8" aria-hidden="true"><line x1="1" x2="17" y1="4" y2="4" stroke={cssColour(paletteColour(i + 1))} stroke-width="3" stroke-dasharray={DASHES[Math.floor(i / 7) % DASHES.length]} /></svg>
            {line.name} <b>{precise(line.points[line.points.length - 1]?.[1])}</b>
          </li>
        ))}
      </ul>
      {asTable.value && <Table lines={lines} xName={xName} title={title} />}
    </figure>
  );
}

function Table({ lines, xName, title }: { lines: readonly Line[]; xName: string; title: string }) {
  const xs = [...new Set(lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  return (
    <div class="table-scroll" tabIndex={0} role="region" aria-label={`${title} as a table`}>
      <table class="numbers">
        <thead><tr><th scope="col">{xName}</th>{lines.map((line) => <th key={line.name} scope="col">{line.name}</th>)}</tr></thead>
        <tbody>
          {xs.map((x) => (
            <tr key={x}><th scope="row">{short(x)}</th>{lines.map((line) => <td key={line.name}>{precise(line.points.find(([at]) => at === x)?.[1])}</td>)}</tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function spread(values: readonly number[]): [number, number] {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low === high ? [low - 1, high + 1] : [low, high];
}

/** 0.37 -> 0.4, 1.2 -> 1.5, 34 -> 40. */
function niceTop(value: number): number {
  if (value <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 8, 10].map((n) => n * unit).find((n) => n >= value) ?? value;
}

function ticks(low: number, high: number, most: number): number[] {
  const step = Math.max(1, Math.ceil((high - low) / most));
  const found: number[] = [];
  for (let x = Math.ceil(low); x <= high; x += step) found.push(x);
  return found;
}

function short(value: number): string {
  return String(Math.round(value * 100) / 100);
}

function precise(value: number | undefined): string {
  return value === undefined ? "–" : value.toFixed(3);
}

function spoken(title: string, lines: readonly Line[]): string {
  const last = lines.map((line) => `${line.name} ${precise(line.points[line.points.length - 1]?.[1])}`);
  return `${title}. Latest: ${last.join(", ")}. The button shows the numbers as a table.`;
}
