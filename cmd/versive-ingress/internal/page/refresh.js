// Replaces what the page shows every five seconds, unless nobody looks, somebody selects
// text or has the focus on a part of it, or it shows what was found.
setInterval(async () => {
  const main = document.querySelector("main");
  if (document.hidden || location.search || main.contains(document.activeElement) || !getSelection().isCollapsed) return;
  let page;
  try {
    const response = await fetch(location.href);
    if (response.ok) page = new DOMParser().parseFromString(await response.text(), "text/html");
  } catch {} // the ingress is away
  document.getElementById("stale").hidden = Boolean(page);
  if (!page) return;
  document.title = page.title;
  main.replaceWith(page.querySelector("main"));
  document.querySelector("footer").replaceWith(page.querySelector("footer"));
}, 5000);
