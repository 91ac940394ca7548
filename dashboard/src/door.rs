//! Where the page is served: an address of this machine, or a socket in a folder.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tokio::net::{TcpListener, UnixListener};

use crate::guard::Guard;
use crate::keys::{Keys, Secret};

/// An address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// Of a network; of this machine alone unless it is behind a proxy.
    Tcp(SocketAddr),
    /// A Unix socket, whose permissions say who is let in.
    Socket(PathBuf),
}

/// The place where browsers come in, and what they need for it.
#[derive(Debug)]
pub struct Door {
    pub(crate) listener: Listener,
    pub(crate) guard: Guard,
    /// None where the permissions of a socket are the key.
    pub(crate) keys: Option<Mutex<Keys>>,
    pub(crate) cookie_name: String,
    /// True if browsers come over HTTPS, so that the cookie is for that alone.
    pub(crate) is_sealed: bool,
    address: Address,
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Socket(UnixListener),
}

impl Door {
    /// Opens an address. `hosts` are further names, as `NAME:PORT`, under which browsers may ask
    /// for the page, and `proxy` is the name under which a proxy with HTTPS serves it.
    ///
    /// # Errors
    /// The address cannot be used.
    pub async fn at(
        address: SocketAddr,
        hosts: &[String],
        proxy: Option<&str>,
        secret: Secret,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let port = address.port();
        let own = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{port}"));
        let plain: Vec<String> = own.iter().chain(hosts).cloned().collect();
        let proxied: Vec<String> = proxy.into_iter().map(str::to_owned).collect();
        Ok(Self {
            listener: Listener::Tcp(listener),
            guard: Guard::new(&plain, &proxied),
            keys: Some(Mutex::new(Keys::new(secret))),
            // Browsers send a cookie to every port of a host.
            cookie_name: format!("furlong-{port}"),
            is_sealed: proxy.is_some(),
            address: Address::Tcp(address),
        })
    }

    /// Opens a Unix socket that only its user can connect to, in place of one that nobody serves.
    ///
    /// # Errors
    /// The socket cannot be made, or somebody serves it.
    pub fn socket(path: &Path) -> io::Result<Self> {
        let is_left_over = std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if is_left_over {
            std::fs::remove_file(path)?;
        }
        let (folder, name) = (path.parent().unwrap_or(Path::new(".")), path.file_name());
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        // Nobody else may connect between its making and its permissions: it is made where nobody
        // else comes, and moved.
        let private = tempfile::Builder::new().prefix(".furlong").tempdir_in(folder)?;
        let made = private.path().join(name);
        let listener = UnixListener::bind(&made)?;
        std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600))?;
        std::fs::hard_link(&made, path)?;
        Ok(Self {
            listener: Listener::Socket(listener),
            guard: Guard::any_host(),
            keys: None,
            cookie_name: String::new(),
            is_sealed: false,
            address: Address::Socket(path.to_owned()),
        })
    }

    /// The address, with the port that it got.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Address::Socket(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_its_user_alone_and_replaces_one_that_is_left_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let door = Door::socket(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Door::socket(&path).is_err(), "it is served");
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "nothing else is left in the folder");
        drop(door);
        assert!(!path.exists());
    }
}
