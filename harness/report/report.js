"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (id) => document.getElementById(id);
  // Text from records reaches the page as text nodes alone.
  const make = (tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    if (text !== "") element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  let read = null;
  const data = () => (read ??= JSON.parse(one("data").textContent)); // on the first click: the page paints without it

  // ---- theme: the system's, until the button says otherwise
  const root = document.documentElement;
  const remembered = (value) => {
    try {
      return value === undefined ? localStorage.getItem("theme") : localStorage.setItem("theme", value);
    } catch {
      return null; // no storage for files in this browser
    }
  };
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  one("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remembered(root.dataset.theme);
  });

  // ---- which folder
  one("run")?.addEventListener("change", (event) => {
    for (const part of all("main [data-run]:not(button)")) part.hidden = part.dataset.run !== event.target.value;
    filterList();
  });

  // ---- sorting: numbers as numbers, what is missing last in either direction
  const order = (a, b, sign) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
  };
  for (const button of all(".sort")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const index = head.cellIndex;
      const text = index === 0 || head.closest("table").tBodies[0]?.rows[0]?.cells[index].classList.contains("text");
      const first = text ? "ascending" : "descending"; // of numbers the best first
      const now = head.getAttribute("aria-sort");
      const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
      for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      const body = head.closest("table").tBodies[0];
      const value = (row) => row.cells[index].dataset.value ?? "";
      const rows = [...body.rows].sort((a, b) => order(value(a), value(b), next === "ascending" ? 1 : -1));
      body.append(...rows);
    });
  }

  // ---- filters
  const words = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = (texts, terms) => {
    const hits = texts.map((text) => terms.some((term) => text.includes(term)));
    return hits.some(Boolean) ? hits : null; // null: no term is about these
  };
  function filterTables() {
    const terms = words(one("filter"));
    const filled = one("filled").checked;
    let any = terms.length === 0;
    for (const table of all("table.main")) {
      const rows = [...table.tBodies[0].rows];
      const heads = [...table.tHead.rows[0].cells];
      const byRow = shown(rows.map((row) => row.cells[0].textContent.toLowerCase()), terms);
      const byColumn = shown(heads.map((head, i) => (i ? head.textContent.toLowerCase() : "")), terms);
      any ||= Boolean(byRow || byColumn);
      const nothing = terms.length > 0 && !byRow && !byColumn;
      const keep = heads.map((_, i) => i === 0 || ((!byColumn || byColumn[i]) && (!filled || rows.some((row) => row.cells[i].dataset.value))));
      rows.forEach((row, i) => {
        row.hidden = nothing || Boolean(byRow && !byRow[i]) || (filled && row.classList.contains("empty"));
      });
      for (const row of [table.tHead.rows[0], ...rows]) [...row.cells].forEach((cell, i) => (cell.hidden = !keep[i]));
      table.closest("details").hidden = rows.every((row) => row.hidden) && (filled || terms.length > 0);
    }
    one("nothing").hidden = any;
  }
  function filterList() {
    const terms = words(one("search"));
    const state = one("state").value;
    let [count, total] = [0, 0];
    for (const row of all("#all [data-run]:not([hidden]) tbody tr")) {
      const keep = terms.every((term) => row.dataset.text.includes(term)) && (!state || row.dataset.state === state);
      row.hidden = !keep;
      total += 1;
      count += keep;
    }
    one("count").textContent = `${count} of ${total}`;
  }
  one("filter").addEventListener("input", filterTables);
  one("filled").addEventListener("change", filterTables);
  one("search").addEventListener("input", filterList);
  one("state").addEventListener("change", filterList);
  filterList();

  // ---- arrow keys move between the cells of a table
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const here = event.target.closest?.("tbody .cell");
    if (!step || !here) return;
    const row = here.closest("tr");
    const rows = [...row.parentElement.rows].filter((other) => !other.hidden);
    const place = (cells) => cells.filter((cell) => !cell.hidden);
    const next = place([...(rows[rows.indexOf(row) + step[0]]?.cells ?? [])]);
    const target = next[place([...row.cells]).indexOf(here.closest("td")) + step[1]]?.querySelector(".cell");
    if (target) {
      event.preventDefault();
      target.focus();
    }
  });

  // ---- where a number comes from
  const fixed = (value, digits) => (value === null ? "–" : value.toFixed(digits));
  const command = (text) => {
    const box = make("div", "", { class: "command" });
    box.append(make("code", text), make("button", "copy", { type: "button", class: "copy", "aria-label": "Copy the command" }));
    return box;
  };
  function pairs(section) {
    const list = make("dl", "", { class: "pairs" });
    for (const [name, value] of Object.entries(section)) {
      const text = value !== null && typeof value === "object" ? JSON.stringify(value) : String(value);
      list.append(make("dt", name), make("dd", text));
    }
    return list;
  }
  function seedRow(seed, choose) {
    const row = make("tr", "", { "aria-selected": "false" });
    const head = make("th", "", { scope: "row" });
    const pick = make("button", `seed ${seed.seed}`, { type: "button", class: "link" });
    pick.addEventListener("click", choose);
    head.append(pick);
    const failed = seed.status === "failed";
    const numbers = [fixed(seed.success, 3), fixed(seed.entropy, 3), fixed(seed.return, 2), fixed(seed.length, 1), seed.train === null ? "–" : `${Math.round(seed.train)} s`];
    row.append(head, ...numbers.map((text, i) => make("td", failed && i === 0 ? "failed" : failed ? "" : text)));
    return row;
  }
  function seeds(group, metric) {
    const table = make("table");
    const head = make("tr");
    for (const name of ["", "success", "entropy", "return", "steps", "training"]) head.append(make("th", name, { scope: "col" }));
    table.append(make("thead"), make("tbody"));
    table.tHead.append(head);
    const below = make("div");
    const choose = (i) => {
      [...table.tBodies[0].rows].forEach((row, j) => row.setAttribute("aria-selected", String(i === j)));
      const seed = group.seeds[i];
      below.replaceChildren(make("h3", `seed ${seed.seed}: run this cell again from its record, and compare`));
      below.append(command(`python -m harness reproduce ${/^[\w./+-]+$/.test(seed.path) ? seed.path : `'${seed.path.replaceAll("'", "'\\''")}'`}`));
      for (const [title, index] of seed.sections) below.append(make("h3", title), pairs(data().blocks[index]));
    };
    group.seeds.forEach((seed, i) => table.tBodies[0].append(seedRow(seed, () => choose(i))));
    choose(0);
    return [table, below];
  }
  function open(button) {
    const run = data().runs[Number(button.dataset.run)];
    const group = run.groups[button.dataset.group];
    one("source-title").textContent = group.title;
    const body = one("source-body");
    body.replaceChildren();
    if (button.dataset.metric) {
      const head = make("p", "", { class: "headline" });
      head.append(make("span", button.dataset.metric, { class: "small" }));
      head.append(...all(".ours, .std, .delta", button).map((part) => part.cloneNode(true)));
      const paper = button.querySelector(".paper");
      if (button.dataset.z) head.append(make("span", `${button.dataset.z} σ`, { class: "small", title: "the difference in combined standard errors" }));
      if (paper) head.append(make("span", `paper ${paper.textContent}`, { class: "paper" }));
      body.append(head);
    }
    if (group.seeds.length) body.append(...seeds(group, button.dataset.metric));
    else body.append(make("p", group.why || "No record yet. This command makes it:"));
    const open = group.planned - group.seeds.length;
    if (group.seeds.length && open > 0) body.append(make("h3", `${open} of ${group.planned} planned cells are not done:`));
    if (group.command && (!group.seeds.length || open > 0)) body.append(command(group.command));
    one("source").showModal();
    body.scrollTop = 0;
  }
  document.addEventListener("click", (event) => {
    const source = event.target.closest("[data-group]");
    if (source) open(source);
    const copy = event.target.closest(".copy");
    if (copy) {
      const text = copy.parentElement.querySelector("code").textContent;
      const done = () => ((copy.textContent = "copied"), setTimeout(() => (copy.textContent = "copy"), 1500));
      navigator.clipboard?.writeText(text).then(done, () => getSelection().selectAllChildren(copy.previousElementSibling));
    }
  });
  const dialog = one("source");
  one("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

  // ---- which section is in view
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) if (entry.isIntersecting) for (const [id, link] of links) link.toggleAttribute("aria-current", id === entry.target.id);
    },
    { rootMargin: "-15% 0px -75% 0px" },
  );
  for (const id of links.keys()) if (one(id)) seen.observe(one(id));
})();
