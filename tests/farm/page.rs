//! The page of the farm: `furlong dashboard`, as a browser and as a program sees it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use furlong_tests::browser::Browser;
use furlong_tests::command::{Cluster, file, furlong, processes_of};
use furlong_tests::home::Home;
use furlong_tests::program::Program;
use furlong_tests::wait::{SOON, eventually};
use furlong_wire::token::Role;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A label and a name that would run if they became markup.
const EVIL: &str = "<img src=x onerror=document.title='OWNED'>";

/// Serves the page, and returns its process and the address with a key.
fn serve(home: &Home, flags: &[&str]) -> (Program, String) {
    let program = Program::start("furlong", &[&["dashboard"], flags].concat(), home);
    let line = program.wait_for_line("page ", SOON);
    (program, line.trim_start_matches("page").trim().to_owned())
}

/// The address of the page, `127.0.0.1:PORT`, of an address with a key.
fn address(url: &str) -> &str {
    url.trim_start_matches("http://").split('/').next().unwrap()
}

#[test]
fn the_address_of_a_page_that_is_served_is_printed_anew() {
    let cluster = Cluster::start(1);
    let none = cluster.furlong(&["dashboard", "url"]).failed(1);
    assert!(none.contains("no page of cluster default is served"), "{none}");
    let (mut page, first) = serve(cluster.home(), &[]);
    let [second, third] = [(); 2].map(|()| cluster.furlong(&["dashboard", "url"]).ok());
    assert_eq!(address(&first), address(&second));
    assert_ne!(second, third, "each has its own key");
    page.terminate();
    assert!(page.wait_exit(SOON).success());
    cluster.furlong(&["dashboard", "url"]).failed(1);
}

#[test]
fn a_socket_needs_no_key_and_names_what_it_serves() {
    let cluster = Cluster::start(1);
    let path = cluster.home().path().join("page.sock");
    let (_page, _) = serve(cluster.home(), &["--socket", path.to_str().unwrap()]);
    let mut socket = std::os::unix::net::UnixStream::connect(&path).unwrap();
    socket
        .write_all(b"GET /about HTTP/1.1\r\nHost: hub.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let about: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert!(about["endpoint"].is_string(), "{about}");
}

#[test]
fn a_cluster_starts_its_page_and_ends_it() {
    let home = Home::new();
    let started = furlong(&["cluster", "start", "-n", "1", "--daemon", "--dashboard"], &home).ok();
    let line = started.lines().find(|line| line.starts_with("page "));
    let url = line.expect("its address is printed").trim_start_matches("page").trim();
    TcpStream::connect(address(url)).unwrap();
    furlong(&["cluster", "stop"], &home).ok();
    assert!(TcpStream::connect(address(url)).is_err(), "it has ended with its cluster");
}

#[test]
fn a_page_that_dies_comes_back_at_its_address() {
    let mut cluster = Cluster::start_with(&["-n", "1", "--dashboard", "--history"]);
    let url = cluster.supervisor().wait_for_line("page ", SOON);
    let url = url.trim_start_matches("page").trim().to_owned();
    let browser = Browser::start().map(|mut browser| {
        browser.open(&url);
        browser.wait_for(&shows("● live"));
        browser
    });
    let pid_of = |cluster: &Cluster, words: &str| {
        let found = processes_of(cluster.home().path());
        found.into_iter().find(|(_, line)| line.contains(words)).map(|(pid, _)| pid)
    };
    for words in ["dashboard --cluster", "history record"] {
        let before = pid_of(&cluster, words).unwrap();
        kill_process(Pid::from_raw(before.cast_signed()).unwrap(), Signal::KILL).unwrap();
        let is_back = || pid_of(&cluster, words).is_some_and(|pid| pid != before);
        assert!(eventually(SOON, is_back), "{words} is not started again");
    }
    let is_served = || TcpStream::connect(address(&url)).is_ok();
    assert!(eventually(SOON, is_served), "{url} is gone");
    let mut again = String::new();
    let has_url = || {
        let printed = cluster.furlong(&["dashboard", "url"]);
        again.clone_from(&printed.stdout);
        printed.code == Some(0)
    };
    assert!(eventually(SOON, has_url), "no address is printed");
    assert_eq!(address(&url), address(&again));
    cluster.furlong(&["submit", "--wait", "--", "true"]).ok();
    let is_written = || cluster.furlong(&["history"]).stdout.contains("true");
    assert!(eventually(SOON, is_written), "{:?}", cluster.furlong(&["history"]));
    // No cookie of before is good: the open page asks for a key, and takes one in the same tab.
    let Some(mut browser) = browser else { return };
    browser.wait_for(&shows("This page asks for a key"));
    browser.value(&format!("location.hash = new URL({again:?}).hash"));
    browser.wait_for(&shows("● live"));
}

#[test]
fn another_address_is_served_for_a_named_proxy_alone() {
    let home = Home::new();
    let refused = furlong(&["dashboard", "--listen", "0.0.0.0:0"], &home).failed(2);
    assert!(refused.contains("--behind-proxy"), "{refused}");
}

/// The farm that the browser looks at: with work that ends, fails, runs and waits.
fn busy_farm() -> Cluster {
    let cluster = Cluster::start(4);
    let program = |name: &str, text: &str| {
        let path = file(cluster.home(), name, &format!("#!/bin/sh\n{text}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    };
    let fit = program("fit", "sleep 0.$((FURLONG_TASK % 4 + 1)); test $FURLONG_TASK -ne 7");
    let load = program("load", "sleep 0.0$((FURLONG_TASK % 7))");
    let submit = |args: &[&str]| cluster.furlong(&[&["submit"], args].concat());
    submit(&["--label", EVIL, "--", "true"]).ok();
    submit(&["--array", "1-60", "--label", "day", "--", &load]).ok();
    submit(&["--array", "1-24", "--wait", "--", &fit]).failed(1);
    let raise = format!("raise type({EVIL:?}, (Exception,), {{}})('sealed')");
    cluster.furlong(&["execute", "--targets", "0", &raise]).failed(1);
    let train = program("train", "sleep 600");
    submit(&["--array", "1-9", "--label", "night", "--", &train]).ok();
    submit(&["--require", "gpu", "--", "true"]).ok();
    cluster
}

/// Tasks with four troubles: an engine three times slower than the others, a kind that is nearly
/// all overhead, a label that no engine has, and a function that fails on some inputs.
fn plant_troubles(cluster: &Cluster) {
    let model = file(
        cluster.home(),
        "model.py",
        "def noop(item):\n    return None\n\ndef load(item):\n    return 1 / (int(item) % 3)\n",
    );
    let fit = "[ $FURLONG_ENGINE = 3 ] && sleep 0.15 || sleep 0.05";
    let fit = file(cluster.home(), "fit", &format!("#!/bin/sh\n{fit}\n"));
    std::fs::set_permissions(&fit, std::fs::Permissions::from_mode(0o700)).unwrap();
    cluster.furlong(&["submit", "--require", "gpu", "--", "true"]).ok();
    cluster.furlong(&["submit", "--array", "1-300", "--wait", "--", &fit]).ok();
    let map = |function: &str, items: u32| {
        let items: Vec<String> = (0..items).map(|item| item.to_string()).collect();
        let function = format!("{model}:{function}");
        let words = ["map", "--no-progress", &function].into_iter();
        let words: Vec<&str> = words.chain(items.iter().map(String::as_str)).collect();
        cluster.furlong(&words)
    };
    map("noop", 1_200).ok();
    map("load", 60).failed(1);
}

/// Contrast of a text to what is behind it, by WCAG 2; the least of all texts of the page.
const CONTRAST: &str = r"(() => {
  const parts = (text) => text.match(/[\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((it) => it / 255)
      .map((it) => (it <= 0.03928 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let it = node; it; it = it.parentElement) {
      const rgb = parts(getComputedStyle(it).backgroundColor);
      if (rgb.length < 4 || rgb[3] > 0) return rgb;
    }
    return [255, 255, 255];
  };
  let least = [99, ''];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const [text, node] = [walker.currentNode.textContent.trim(), walker.currentNode.parentElement];
    if (!text || !node.checkVisibility() || node.closest('svg, noscript, [disabled]')) continue;
    const [a, b] = [light(parts(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, text];
  }
  return least;
})()";
/// What has no name for those who do not see it: controls, pictures, and heads of tables.
const NAMELESS: &str = r"[...document
  .querySelectorAll('button, a, input, select, canvas, svg[role]')]
  .filter((it) => !(it.innerText || it.textContent || it.getAttribute('aria-label') || '').trim())
  .map((it) => it.outerHTML)";

/// Saves a picture for the documents, if a folder for them is named.
fn keep_picture(browser: &mut Browser, name: &str) {
    let Some(folder) = std::env::var_os("FURLONG_TEST_PICTURES") else { return };
    let path = std::path::Path::new(&folder).join(format!("{name}.png.base64"));
    std::fs::write(path, browser.picture()).unwrap();
}

/// An expression that is true when the page shows this text.
fn shows(text: &str) -> String {
    format!("document.body.innerText.includes({text:?})")
}

/// A browser, a busy farm, its page that is open, and the address with the key that has been used.
fn open_page() -> Option<(Browser, Cluster, Program, String)> {
    let Some(mut browser) = Browser::start() else {
        eprintln!("skipped: there is no chromium here");
        return None;
    };
    let cluster = busy_farm();
    let (page, url) = serve(cluster.home(), &[]);
    browser.open(&url);
    browser.wait_for(&shows("● live"));
    Some((browser, cluster, page, url))
}

/// Texts stand out in both colours, and everything has a name.
fn check_looks(browser: &mut Browser, page: &str) {
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        let least = browser.value(CONTRAST);
        assert!(least[0].as_f64().unwrap() >= 4.5, "{page} in {scheme}: {least}");
        keep_picture(browser, &format!("page-{page}-{scheme}"));
    }
    assert_eq!(browser.value(NAMELESS), Value::Array(vec![]), "{page}");
}

#[test]
fn a_browser_shows_every_page_in_both_colours_by_keyboard_alone() {
    let Some((mut browser, _cluster, _page, url)) = open_page() else { return };
    for (key, page, expected) in [
        ("1", "overview", "unfinished"),
        ("2", "kinds", "All kinds of tasks"),
        ("3", "engines", "4 engines: 4 busy"),
        ("4", "tasks", "86 of 86 that match are shown"),
        ("5", "timeline", "86 tasks that have ended, of 86 known here"),
        ("6", "errors", "Failures by type and place"),
        ("7", "owners", "Owners of tasks"),
        ("8", "profile", "a capability that may only look"),
    ] {
        browser.press(key);
        browser.wait_for(&shows(expected));
        browser.wait_for("document.querySelector('#main table, #main canvas')");
        if page == "timeline" {
            browser.value(
                "document.querySelector('#main select').value = '10 s';
                 document.querySelector('#main select').dispatchEvent(new Event('change'))",
            );
            browser.wait_for(&shows("10 s: "));
        }
        check_looks(&mut browser, page);
    }
    // A task that goes on gets longer, though its engine has nothing new to tell.
    browser.press("3");
    browser.wait_for(r"/train\s+[2-9](\.\d)? s/.test(document.body.innerText)");
    browser.press("Tab");
    assert_eq!(browser.value("document.activeElement.innerText"), "Skip to the content");
    browser.press("c");
    assert_eq!(browser.value("document.documentElement.dataset.theme"), "light");
    let own = format!("http://{}/", address(&url));
    let is_own =
        |it: &String| it.starts_with(&own) || it.starts_with("data:") || it == "about:blank";
    let elsewhere: Vec<String> = browser.asked_for().into_iter().filter(|it| !is_own(it)).collect();
    assert!(elsewhere.is_empty(), "it asks elsewhere: {elsewhere:?}");
    assert_eq!(browser.complaints(""), Vec::<String>::new());
}

#[test]
fn names_labels_and_types_of_errors_never_become_markup() {
    let Some((mut browser, _cluster, _page, url)) = open_page() else { return };
    assert_eq!(browser.value("location.hash"), "#/overview", "the key is gone from the address");
    browser.press("6");
    browser.wait_for(&shows(&format!("__main__.{EVIL}")));
    browser.value("location.hash = '#/tasks?source=unfinished'");
    browser.wait_for(&shows("night"));
    browser.value("location.hash = '#/tasks?source=kept'");
    browser.wait_for(&shows(EVIL));
    browser.value("document.querySelector('tbody a').click()");
    browser.wait_for(&shows("An observer may not read it"));
    keep_picture(&mut browser, "page-task-light");
    assert_eq!(browser.value("document.images.length"), 0, "a text has become an element");
    let title = browser.value("document.title");
    assert!(!title.as_str().unwrap().contains("OWNED"), "{title}");
    assert_eq!(browser.complaints(""), Vec::<String>::new());

    browser.call("Network.clearBrowserCookies", serde_json::json!({}));
    browser.open("about:blank");
    browser.open(&url);
    browser.wait_for(&shows("this key has been used"));
}

#[test]
fn four_planted_troubles_are_named_with_what_to_do() {
    let Some(mut browser) = Browser::start() else {
        eprintln!("skipped: there is no chromium here");
        return;
    };
    let cluster = Cluster::start(4);
    let (_page, url) = serve(cluster.home(), &[]);
    browser.open(&url);
    browser.wait_for(&shows("● live"));
    assert_eq!(browser.value("document.querySelectorAll('.notes li').length"), 0);
    plant_troubles(&cluster);
    browser.wait_for("document.querySelectorAll('.notes li').length >= 4");
    // The data as the page is told it: one look of a second reader.
    let told = "new Promise((resolve) => { const it = new EventSource('events');
        it.addEventListener('look', (event) => {
          it.close();
          resolve(JSON.parse(event.data).notes);
        }); })";
    let notes = browser.value(told);
    let notes = notes.as_array().unwrap();
    assert_eq!(notes.len(), 4, "each trouble once, and nothing else: {notes:?}");
    for (note, about, found, to_do, page) in [
        ("slow_engine", "engine", Value::from(3), "furlong shutdown --finish 3", "engines"),
        ("small_tasks", "kind", "model.noop".into(), "chunksize", "kinds"),
        ("nobody_fits", "text", "command gpu".into(), "furlong engine --label gpu", "kinds"),
        ("same_failure", "kind", "model.load".into(), "furlong result", "errors"),
    ] {
        let told = notes.iter().find(|it| it["note"] == note);
        let told = told.unwrap_or_else(|| panic!("no {note}: {notes:?}"));
        assert_eq!(told[about], found, "{told}");
        let says = told["says"].as_str().unwrap();
        assert!(says.contains(to_do), "{says}");
        // The first screen has it, with the way to the page that has more.
        let item = format!(
            "[...document.querySelectorAll('.notes li')]
                .find((it) => it.innerText.includes({to_do:?}))"
        );
        let link = browser.value(&format!("{item}.querySelector('a').hash"));
        assert_eq!(link, format!("#/{page}"), "{says}");
        let is_seen = format!("{item}.getBoundingClientRect().bottom <= innerHeight");
        assert_eq!(browser.value(&is_seen), true, "{note} is below the first screen");
    }
    check_looks(&mut browser, "troubles");
    assert_eq!(browser.complaints(""), Vec::<String>::new());
}

/// Code that says that it runs, and runs until it is interrupted.
fn begin_forever(cluster: &Cluster) -> Program {
    let began = cluster.home().path().join("began");
    let path = began.display();
    let code = format!(
        "import threading\ndef wait_for_ever():\n    open('{path}', 'w')\n    \
         threading.Event().wait()\nwait_for_ever()"
    );
    let code = Program::start("furlong", &["execute", "-t", "0", &code], cluster.home());
    assert!(eventually(SOON, || began.exists()), "{}", code.stderr());
    code
}

#[test]
fn a_task_that_runs_is_profiled_with_a_capability_that_may() {
    let Some(mut browser) = Browser::start() else {
        eprintln!("skipped: there is no chromium here");
        return;
    };
    let cluster = Cluster::start(1);
    let mut code = begin_forever(&cluster);
    let cap = cluster.home().cluster().capability(Role::Client);
    let (_page, url) = serve(cluster.home(), &["--cap", cap.to_str().unwrap()]);
    browser.open(&url);
    browser.wait_for(&shows("● live"));
    browser.press("8");
    browser.wait_for(&shows("that runs now is sampled"));
    let press = "document.querySelector('#main p > button').click()";
    browser.value(press);
    browser.wait_for("document.images.length === 1 && document.images[0].naturalWidth > 0");
    browser.wait_for(r"/on engine 0: \d+ samples in 5/.test(document.body.innerText)");
    let functions = browser.value("document.querySelector('#main table').innerText");
    assert!(functions.as_str().unwrap().contains("wait_for_ever"), "{functions}");
    let picture = browser.value("decodeURIComponent(document.images[0].src)");
    assert!(picture.as_str().unwrap().contains("wait_for_ever ("), "{picture}");
    check_looks(&mut browser, "profile");

    // The page of the task has it as well, and goes on to be brought up to date beside it.
    browser.press("3");
    browser.wait_for(&shows("1 engine"));
    let task = "new Promise((resolve) => { const it = new EventSource('events');
        it.addEventListener('look', (event) => {
          const running = JSON.parse(event.data).engines.map((it) => it.running && it.running.task);
          if (running.length) { it.close(); resolve(running[0]); }
        }); })";
    let task = browser.value(task);
    browser.value(&format!("location.hash = '#/task/' + {task}"));
    browser.wait_for(&shows("Where its code is"));
    browser.value(press);
    browser.wait_for(&shows("It is sampled for 5 s"));
    browser.wait_for("document.images.length === 1 && document.images[0].naturalWidth > 0");
    assert_eq!(browser.complaints(""), Vec::<String>::new());
    code.interrupt();
    code.wait_exit(SOON);
}
