/** Line icons, drawn for this page. */

import type { JSX } from "preact";

const PATHS: Readonly<Record<string, JSX.Element>> = {
  cursor: <path d="M12 3v6M12 15v6M3 12h6M15 12h6" />,
  brush: <path d="M20 4c-4 1-8 5-10 8l2 2c3-2 7-6 8-10zM9.5 13.5c-2 0-3.5 1.5-3.5 3.5 0 1.5-1 2-2 2.5 3 1.5 7.500.5 7.500-3.500z" />,
  eraser: <path d="M4 15.500 13 6.500l6 6-7 7H8zM9 10.500l6 6M8 19.500h12" />,
  fill: <path d="M5 12.500 12 5.500l7 7-5.500 5.500a2 2 0 0 1-3 0zM5 12.500h14M12 5.500 9.500 3M20.500 16c1 1.600 1 3-.2 3.500-1.200-.5-1.200-1.900.2-3.500z" />,
  point: <><circle cx="12" cy="12" r="3.500" fill="currentColor" /><circle cx="12" cy="12" r="8" /></>,
  box: <path d="M4.500 6h15v12h-15z" stroke-dasharray="3.500 2.500" />,
  scribble: <path d="M4 15c2-6 4-8 6-7s-1 7 1 8 4-9 6-8 0 5 3 5" />,
  lasso: <path d="M12 5c5 0 8.500 2.200 8.500 5s-3.500 5-8.500 5-8.500-2.200-8.500-5S7 5 12 5zM8 14.500c-1.500 1-1.500 3 0 3.500s1.500 2 .5 3" />,
  undo: <path d="M8 5 4 9l4 4M4 9h9a6 6 0 0 1 0 12h-3" />,
  redo: <path d="m16 5 4 4-4 4M20 9h-9a6 6 0 0 0 0 12h3" />,
  eye: <><path d="M2.500 12s3.500-6.500 9.500-6.500 9.500 6.500 9.500 6.500-3.500 6.500-9.500 6.500S2.500 12 2.500 12z" /><circle cx="12" cy="12" r="2.800" /></>,
  eyeOff: <path d="M4 4l16 16M9.500 6c.8-.3 1.600-.5 2.500-.5 6 0 9.500 6.500 9.500 6.500s-1 1.900-2.900 3.600M6 7.700C3.700 9.500 2.500 12 2.500 12s3.500 6.500 9.500 6.500c1.500 0 2.900-.4 4.100-1" />,
  lock: <path d="M6 11h12v9H6zM8.500 11V8a3.500 3.500 0 0 1 7 0v3" />,
  unlock: <path d="M6 11h12v9H6zM8.500 11V8a3.500 3.500 0 0 1 6.800-1.200" />,
  plus: <path d="M12 5v14M5 12h14" />,
  minus: <path d="M5 12h14" />,
  play: <path d="M7 4.500v15l12-7.500z" fill="currentColor" />,
  stop: <path d="M6.500 6.500h11v11h-11z" fill="currentColor" />,
  next: <path d="M5 5l8 7-8 7zM17 5v14" />,
  check: <path d="m4.500 12.500 5 5 10-11" />,
  cross: <path d="M6 6l12 12M18 6 6 18" />,
  flag: <path d="M6 21V4M6 5h11l-2 4 2 4H6" />,
  skip: <path d="m5 5 7 7-7 7M12 5l7 7-7 7" />,
  help: <><circle cx="12" cy="12" r="9" /><path d="M9.500 9.500a2.500 2.500 0 1 1 3.600 2.200c-.8.4-1.100.9-1.100 1.800M12 16.800v.2" /></>,
  person: <><circle cx="12" cy="8" r="3.500" /><path d="M5 20c.8-4 3.600-6 7-6s6.200 2 7 6" /></>,
  sun: <><circle cx="12" cy="12" r="4" /><path d="M12 3v2M12 19v2M3 12h2M19 12h2M5.600 5.600 7 7M17 17l1.400 1.400M18.400 5.600 17 7M7 17l-1.400 1.400" /></>,
  moon: <path d="M19.500 14.500A8 8 0 0 1 9.500 4.500a8 8 0 1 0 10 10z" />,
  gear: <><circle cx="12" cy="12" r="3" /><path d="M12 3v3M12 18v3M3 12h3M18 12h3M5.600 5.600l2.100 2.100M16.300 16.300l2.100 2.100M18.400 5.600l-2.100 2.100M7.700 16.300l-2.100 2.100" /></>,
  large: <path d="M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5" />,
  download: <path d="M12 4v11M7.500 11 12 15.500 16.500 11M5 20h14" />,
  half: <><circle cx="12" cy="12" r="8.500" /><path d="M12 3.500a8.500 8.500 0 0 1 0 17z" fill="currentColor" /></>,
  ring: <circle cx="12" cy="12" r="7.500" />,
  dot: <circle cx="12" cy="12" r="7.500" fill="currentColor" />,
  back: <path d="M20 12H5M11 6l-6 6 6 6" />,
  between: <path d="M5 5h14M5 19h14M8 12h8" stroke-dasharray="0" />,
  layers: <path d="m12 4 9 5-9 5-9-5zM3.500 14l8.500 5 8.500-5" />,
};

export type IconName = keyof typeof PATHS & string;

export function Icon({ name, size = 18 }: { name: string; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.7"
      stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
      {PATHS[name]}
    </svg>
  );
}
