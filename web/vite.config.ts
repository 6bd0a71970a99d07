import { defineConfig } from "vite";

/**
 * The page lands inside the Python package, where the wheel carries it. `base` is relative, so that it works behind any
 * path prefix. Nothing is inlined as a data URL: the server's Content-Security-Policy allows its own host and no more.
 */
export default defineConfig({
  base: "./",
  build: {
    outDir: "../labelserver/web_dist",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    target: "es2022",
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
  },
  server: { proxy: { "/api": "http://127.0.0.1:8000", "/info": "http://127.0.0.1:8000" } },
});
