/** The page: header, the view that is chosen, what speaks in front of it. */

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { view } from "../state/page";
import { Banner, Dialogs, FirstVisit, Meeting, Toasts } from "./dialogs";
import { Header } from "./header";
import { ImagePanel } from "./imagelist";
import { heardKey } from "./keys";
import { LabelPanel } from "./labelpanel";
import { ModelPanel } from "./modelpanel";
import { ModelsView } from "./models";
import { Panes } from "./panes";
import { ReviewView } from "./review";
import { StatusBar } from "./statusbar";
import { Toolbar, ToolOptions } from "./toolbar";
import { TrainPanel } from "./trainpanel";

export function App() {
  useEffect(() => {
    document.addEventListener("keydown", heardKey);
    return () => document.removeEventListener("keydown", heardKey);
  }, []);
  return (
    <>
      <Header />
      <Banner />
      <main class="main" id="main">
        {view.value === "work" && <Work />}
        {view.value === "models" && <ModelsView />}
        {view.value === "review" && <ReviewView />}
      </main>
      <Toasts />
      <Dialogs />
    </>
  );
}

function Work() {
  const drawer = useSignal<"none" | "left" | "right">("none");
  const flip = (side: "left" | "right") => { drawer.value = drawer.value === side ? "none" : side; };
  return (
    <div class="work" data-drawer={drawer.value}>
      <div class="side left"><ImagePanel /></div>
      <div class="centre">
        <div class="drawers">
          <button type="button" aria-pressed={drawer.value === "left"} onClick={() => flip("left")}>Images</button>
          <button type="button" aria-pressed={drawer.value === "right"} onClick={() => flip("right")}>Labels and model</button>
        </div>
        <Toolbar />
        <ToolOptions />
        <div class="stage"><Panes /><Meeting /><FirstVisit /></div>
        <StatusBar />
      </div>
      <div class="side right"><LabelPanel /><ModelPanel /><TrainPanel /></div>
    </div>
  );
}
