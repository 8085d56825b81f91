"use strict";
(() => {
  const STEP = 48; // cards that are made at once; the next ones when the reader comes near
  const WORDS = {
    en: {
      search: "Search", variant: "Variant", person: "Person", state: "State", all: "all", likeness: "Likeness",
      noface: "no face found", faces: "Faces found", light: "Brightness, contrast", size: "Size", seed: "Seed",
      kept: "kept from an earlier job", origin: "sha256 of the file", key: "Item key", file: "The whole file",
      nothing: "No picture fits these filters.", made: "Made with face0.", close: "Close",
      keys: "Keys: / search, arrows move, Enter opens, Esc closes.",
      done: "done", failed: "failed", rejected: "rejected", cancelled: "cancelled", purged: "erased",
      waiting: "waiting", dispatched: "waiting", running: "being made", reason: "Reason",
    },
    ja: {
      search: "検索", variant: "バリエーション", person: "人物", state: "状態", all: "すべて", likeness: "顔の一致度",
      noface: "顔が見つかりません", faces: "見つかった顔", light: "明るさ、コントラスト", size: "サイズ", seed: "シード",
      kept: "以前のジョブから引き継ぎ", origin: "ファイルの sha256", key: "アイテムキー", file: "元のファイル",
      nothing: "条件に合う画像はありません。", made: "face0 で作成。", close: "閉じる",
      keys: "キー操作: / 検索、矢印 移動、Enter 開く、Esc 閉じる。",
      done: "完了", failed: "失敗", rejected: "不合格", cancelled: "取り消し", purged: "消去済み",
      waiting: "待機中", dispatched: "待機中", running: "作成中", reason: "理由",
      note: "このページの画像はすべて、写っている人の同意のもと、1 枚の写真から学習済みモデルで生成されました。" +
        "各画像には署名付きの証明があり、face0 verify でファイルが変更されていないこと、同意が有効なことを確認できます。",
    },
  };
  const LABELS = { Pictures: "画像数", Purpose: "目的", Submitted: "受付", Made: "作成", Model: "モデル" };
  const at = (id) => document.getElementById(id);
  const pictures = JSON.parse(at("pictures").textContent);
  const note = document.querySelector("[data-text=note]");
  const english = note.innerHTML;
  let language = (navigator.language || "en").startsWith("ja") ? "ja" : "en";
  let shown = [], made = 0, current = -1;

  const text = (word) => WORDS[language][word] ?? WORDS.en[word] ?? word;
  const fold = (said) => said.normalize("NFKC").toLocaleLowerCase();
  const haystack = pictures.map((one) => fold([one.sku, one.variant, one.caption, one.prompt, one.item_key, one.sha256].join("\n")));

  function node(tag, className, said) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (said !== undefined) made.textContent = said;
    return made;
  }

  function card(one, place) {
    const made = node("button", "card");
    made.type = "button";
    made.dataset.place = place;
    if (one.source) {
      const picture = node("img");
      picture.src = one.source;
      picture.alt = one.prompt;
      picture.decoding = "async";
      made.append(picture);
    } else {
      made.append(node("span", "none", text(one.state)));
    }
    const words = node("span", "text");
    words.append(node("span", "name", one.caption || one.sku));
    if (one.caption || one.variant) words.append(node("span", "sub", [one.caption && one.sku, one.variant].filter(Boolean).join(" · ")));
    if (one.reason) words.append(node("span", "sub bad", one.reason));
    made.append(words);
    made.addEventListener("click", () => open(place));
    return made;
  }

  function more() {
    const until = Math.min(made + STEP, shown.length);
    for (; made < until; made++) at("grid").append(card(shown[made], made));
  }

  // the filters stand in the address, so that a view of the page can be kept and passed on
  function remember() {
    const kept = new URLSearchParams();
    for (const name of ["search", "variant", "person", "state"]) {
      const value = at(name).value;
      if (value && value !== "*") kept.set(name, value);
    }
    const hash = kept.toString();
    if (hash !== location.hash.slice(1)) history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
  }

  function recall() {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of kept) if (["search", "variant", "person", "state"].includes(name)) at(name).value = value;
    if (kept.get("language") in WORDS) language = kept.get("language");
  }

  function filter() {
    const words = fold(at("search").value).split(/\s+/).filter(Boolean);
    const chosen = ["variant", "person", "state"].map((name) => [name, at(name).value]).filter(([, value]) => value !== "*");
    shown = pictures.filter((one, number) =>
      chosen.every(([name, value]) => one[name] === value) && words.every((word) => haystack[number].includes(word)));
    made = 0;
    remember();
    at("grid").replaceChildren();
    at("count").textContent = `${shown.length} / ${pictures.length}`;
    at("nothing").hidden = shown.length > 0;
    more();
  }

  function choices(name) {
    const select = at(name), before = select.value || "*";
    const values = [...new Set(pictures.map((one) => one[name]))].sort();
    select.replaceChildren(new Option(text("all"), "*"));
    for (const value of values) select.append(new Option(name === "state" ? text(value) : value || "–", value));
    select.value = before;
    select.closest("label").hidden = values.length < 2;
  }

  function facts(one) {
    const rows = [
      ["variant", one.variant], ["state", text(one.state)], ["reason", one.reason],
      ["likeness", one.source && (one.likeness || text("noface"))], ["faces", one.faces], ["light", one.light],
      ["size", one.size], ["seed", one.seed], ["person", one.person], ["key", one.item_key], ["origin", one.sha256],
    ];
    if (one.kept) rows.splice(2, 0, ["state", text("kept")]);
    return rows.filter(([, value]) => value).flatMap(([word, value]) => [node("dt", "", text(word)), node("dd", "", value)]);
  }

  function open(place) {
    const one = shown[place];
    if (!one) return;
    current = place;
    at("view-picture").hidden = !one.source;
    if (one.source) at("view-picture").src = one.source;
    at("view-picture").alt = one.prompt;
    at("view-title").textContent = one.caption ? `${one.caption} (${one.sku})` : one.sku;
    at("view-prompt").textContent = one.prompt;
    at("view-facts").replaceChildren(...facts(one));
    at("view-link").hidden = !one.link;
    at("view-link").href = one.link || "#";
    if (!at("view").open) at("view").showModal();
  }

  function focus(place) {
    while (made <= place && made < shown.length) more();
    const found = at("grid").children[Math.max(0, Math.min(place, shown.length - 1))];
    if (found) found.focus();
  }

  function columns() {
    return getComputedStyle(at("grid")).gridTemplateColumns.split(" ").length;
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.matches("input, select");
    if (at("view").open) {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && shown[current + step]) open(current + step);
      return;
    }
    if (event.key === "/" && !typing) {
      event.preventDefault();
      at("search").focus();
    } else if (event.key === "Escape" && typing) {
      at("search").value = "";
      filter();
    } else if (!typing || (event.key === "ArrowDown" && event.target === at("search"))) {
      const here = Number(event.target.dataset?.place ?? -1);
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() }[event.key];
      if (!step) return;
      event.preventDefault();
      focus(here < 0 ? 0 : here + step);
    }
  }

  function speak() {
    document.documentElement.lang = language;
    for (const one of document.querySelectorAll("[data-text]")) {
      if (one !== note) one.textContent = text(one.dataset.text);
    }
    for (const label of document.querySelectorAll(".facts dt")) {
      label.dataset.english ??= label.textContent;
      label.textContent = (language === "ja" && LABELS[label.dataset.english]) || label.dataset.english;
    }
    if (language === "ja") note.textContent = WORDS.ja.note;
    else note.innerHTML = english;
    at("language").textContent = language === "ja" ? "English" : "日本語";
    at("language").lang = language === "ja" ? "en" : "ja";
    at("close").setAttribute("aria-label", text("close"));
    for (const name of ["variant", "person", "state"]) choices(name);
  }

  at("language").addEventListener("click", () => { language = language === "ja" ? "en" : "ja"; speak(); filter(); });
  at("search").addEventListener("input", filter);
  for (const name of ["variant", "person", "state"]) at(name).addEventListener("change", filter);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("close").addEventListener("click", () => at("view").close());
  at("view").addEventListener("click", (event) => { if (event.target === at("view")) at("view").close(); });
  at("view").addEventListener("close", () => focus(current));
  document.addEventListener("keydown", key);
  window.addEventListener("beforeprint", () => { while (made < shown.length) more(); });
  new IntersectionObserver((seen) => { if (seen[0].isIntersecting) more(); }, { rootMargin: "1200px" }).observe(at("more"));
  speak();
  recall();
  speak();
  filter();
})();
