//! Whether a request comes from our own page: by its headers, before anything else is done with it.
//!
//! Any page that the browser has open can send requests to an address of this machine, and a name
//! of another site can be made to lead here (DNS rebinding). The browser says in `Host`, `Origin`
//! and `Sec-Fetch-Site` where a request comes from, and no page can change these headers.

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};

/// The reason why a request is not looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// It names another host.
    #[error("this address is not one of the page's; `furlong dashboard --host NAME:PORT` adds one")]
    Host,
    /// It comes from another page.
    #[error("this request comes from another page")]
    Origin,
}

/// The names under which the page may be asked for.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Each as it stands in `Host`, in small letters; none for any.
    hosts: Option<Vec<String>>,
    origins: Vec<String>,
}

/// The header in which a browser says how the page that asks and the page that is asked for belong
/// together.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl Guard {
    /// Lets in requests for these hosts over HTTP, and for those behind a proxy over HTTPS.
    pub fn new(hosts: &[String], proxied: &[String]) -> Self {
        let all = hosts.iter().chain(proxied).map(|host| host.to_ascii_lowercase());
        let plain = hosts.iter().map(|host| format!("http://{}", host.to_ascii_lowercase()));
        let sealed = proxied.iter().map(|host| format!("https://{}", host.to_ascii_lowercase()));
        Self { hosts: Some(all.collect()), origins: plain.chain(sealed).collect() }
    }

    /// Lets in requests for any host: for a Unix socket, whose permissions are the door.
    pub fn any_host() -> Self {
        Self { hosts: None, origins: Vec::new() }
    }

    /// Looks at a request's headers.
    pub fn check(&self, parts: &Parts) -> Result<(), Refusal> {
        let host = only(&parts.headers, header::HOST).ok_or(Refusal::Host)?;
        let host = host.to_ascii_lowercase();
        self.check_host(&host)?;
        if let Some(authority) = parts.uri.authority() {
            self.check_host(&authority.as_str().to_ascii_lowercase())?;
        }
        if parts.headers.contains_key(header::ORIGIN) {
            let origin = only(&parts.headers, header::ORIGIN).ok_or(Refusal::Origin)?;
            let origin = origin.to_ascii_lowercase();
            let is_own = match &self.hosts {
                Some(_) => self.origins.contains(&origin),
                None => origin.split_once("://").is_some_and(|(_, named)| named == host),
            };
            if !is_own {
                return Err(Refusal::Origin);
            }
        }
        if parts.headers.contains_key(SEC_FETCH_SITE) {
            let site = only(&parts.headers, SEC_FETCH_SITE).unwrap_or_default();
            if !matches!(site, "same-origin" | "none") {
                return Err(Refusal::Origin);
            }
        }
        Ok(())
    }

    fn check_host(&self, host: &str) -> Result<(), Refusal> {
        let is_ours = match &self.hosts {
            Some(hosts) => hosts.iter().any(|ours| ours == host),
            None => true,
        };
        if is_ours { Ok(()) } else { Err(Refusal::Host) }
    }
}

/// The value of a header that is there exactly once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The values of a cookie, of which a browser may send several of one name.
pub fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.filter(move |(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request = Request::builder().uri(uri);
        let request = headers.iter().fold(request, |it, (name, value)| it.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn guard() -> Guard {
        let hosts = ["127.0.0.1:4000", "localhost:4000"].map(str::to_owned);
        Guard::new(&hosts, &["Farm.example".to_owned()])
    }

    #[test]
    fn the_hosts_of_the_page_are_let_in_and_no_others() {
        for good in ["127.0.0.1:4000", "LOCALHOST:4000", "farm.example"] {
            assert_eq!(guard().check(&parts("/", &[("host", good)])), Ok(()), "{good}");
        }
        for wrong in ["evil.example:4000", "127.0.0.1", "127.0.0.1:4001", "", "localhost:4000.x"] {
            let refused = guard().check(&parts("/", &[("host", wrong)]));
            assert_eq!(refused, Err(Refusal::Host), "{wrong}");
        }
        assert_eq!(guard().check(&parts("/", &[])), Err(Refusal::Host));
        let twice = [("host", "localhost:4000"), ("host", "evil.example")];
        assert_eq!(guard().check(&parts("/", &twice)), Err(Refusal::Host));
        let absolute = parts("http://evil.example/", &[("host", "localhost:4000")]);
        assert_eq!(guard().check(&absolute), Err(Refusal::Host));
    }

    #[test]
    fn other_pages_are_refused() {
        let check = |guard: &Guard, host: &str, more: (&str, &str)| {
            guard.check(&parts("/", &[("host", host), more]))
        };
        let guard = guard();
        let (ours, refused) = ("localhost:4000", Err(Refusal::Origin));
        assert_eq!(check(&guard, ours, ("origin", "http://localhost:4000")), Ok(()));
        assert_eq!(check(&guard, "farm.example", ("origin", "https://farm.example")), Ok(()));
        for origin in
            ["null", "http://evil.example", "https://localhost:4000", "http://farm.example"]
        {
            assert_eq!(check(&guard, ours, ("origin", origin)), refused, "{origin}");
        }
        for site in ["cross-site", "same-site", "", "x"] {
            assert_eq!(check(&guard, ours, ("sec-fetch-site", site)), refused, "{site}");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(check(&guard, ours, ("sec-fetch-site", site)), Ok(()));
        }
        let any = Guard::any_host();
        assert_eq!(check(&any, "hub.example", ("origin", "https://hub.example")), Ok(()));
        assert_eq!(check(&any, "hub.example", ("origin", "https://evil.example")), refused);
        assert_eq!(check(&any, "hub.example", ("sec-fetch-site", "cross-site")), refused);
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let parts = parts("/", &[("cookie", "a=1; b=2"), ("cookie", "b=3;c")]);
        assert_eq!(cookies(&parts.headers, "b").collect::<Vec<_>>(), ["2", "3"]);
        assert_eq!(cookies(&parts.headers, "c").count(), 0);
    }
}
