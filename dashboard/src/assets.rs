//! The files of the page, which are in the program: nothing is loaded from anywhere else.

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Its path within the page.
    pub path: &'static str,
    /// Its type, for the browser.
    pub content_type: &'static str,
    /// Its content.
    pub text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! asset {
    ($path:literal, $file:literal, $content_type:expr) => {
        Asset {
            path: $path,
            content_type: $content_type,
            text: include_str!(concat!("../page/", $file)),
        }
    };
}

/// All of them. They say nothing of the farm, and are all that somebody without a cookie gets.
pub const ASSETS: &[Asset] = &[
    asset!("/", "index.html", HTML),
    asset!("/style.css", "style.css", CSS),
    asset!("/main.js", "main.js", SCRIPT),
    asset!("/dom.js", "dom.js", SCRIPT),
    asset!("/feed.js", "feed.js", SCRIPT),
    asset!("/words.js", "words.js", SCRIPT),
    asset!("/table.js", "table.js", SCRIPT),
    asset!("/charts.js", "charts.js", SCRIPT),
    asset!("/timeline.js", "timeline.js", SCRIPT),
    asset!("/overview.js", "overview.js", SCRIPT),
    asset!("/lists.js", "lists.js", SCRIPT),
    asset!("/tasks.js", "tasks.js", SCRIPT),
    asset!("/flame.js", "flame.js", SCRIPT),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that all files have together at most.
    const BYTES_MAX: usize = 150 * 1024;

    #[test]
    fn the_page_is_small_and_needs_nothing_from_elsewhere() {
        let bytes: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(bytes <= BYTES_MAX, "the page has {bytes} bytes");
        for asset in ASSETS {
            for address in ["http:", "https:", "url(", "@import"] {
                assert!(!asset.text.contains(address), "{} names {address}", asset.path);
            }
            for unsafe_name in
                ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("]
            {
                assert!(!asset.text.contains(unsafe_name), "{} has {unsafe_name}", asset.path);
            }
        }
    }

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/page");
        let count = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(count, ASSETS.len());
        let index = ASSETS[0].text;
        assert!(!index.contains("style=") && !index.contains("onclick"), "the CSP forbids it");
        for asset in ASSETS.iter().filter(|asset| asset.content_type == SCRIPT) {
            for line in asset.text.lines().filter(|line| line.starts_with("import ")) {
                let named = line.rsplit('"').nth(1).unwrap().trim_start_matches('.');
                assert!(ASSETS.iter().any(|other| other.path == named), "{line}");
            }
        }
    }
}
