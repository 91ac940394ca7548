//! The place where programs come in: a Unix socket that only its user can open, or a port of this
//! machine alone.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use furlong_host::bearer::BearerToken;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// A listener, and the token that it demands.
#[derive(Debug)]
pub struct Door {
    listener: Listener,
    token: Option<BearerToken>,
    /// The address as `ZeroMQ` libraries take it.
    endpoint: String,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Socket(UnixListener, PathBuf),
}

/// The reason why a door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The address is not of this machine alone.
    #[error(
        "{0} is not a loopback address, and a gateway does not encrypt: serve 127.0.0.1 and come in \
         through ssh -L, or start a gateway on the other machine"
    )]
    NotLoopback(SocketAddr),
    /// The port cannot be had.
    #[error("{0} cannot be served: {1}")]
    Port(SocketAddr, #[source] io::Error),
    /// Somebody serves the socket.
    #[error(
        "{} is served by another gateway; end that one, or name another with --socket",
        .0.display()
    )]
    Served(PathBuf),
    /// The folder lets others in.
    #[error(
        "the folder {} is open to others; `chmod 700` it, or name a socket elsewhere",
        .0.display()
    )]
    OpenFolder(PathBuf),
    /// The socket cannot be made.
    #[error("the socket {} cannot be made: {}", .0.display(), .1)]
    Socket(PathBuf, #[source] io::Error),
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Door {
    /// Opens a port on a loopback address, for who has the token.
    ///
    /// # Errors
    /// [`DoorError::NotLoopback`], [`DoorError::Port`].
    pub async fn tcp(address: SocketAddr, token: BearerToken) -> Result<Self, DoorError> {
        if !address.ip().is_loopback() {
            return Err(DoorError::NotLoopback(address));
        }
        let failed = |error| DoorError::Port(address, error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let endpoint = format!("tcp://{}", listener.local_addr().map_err(failed)?);
        Ok(Self { listener: Listener::Tcp(listener), token: Some(token), endpoint })
    }

    /// Opens a Unix socket in a folder that is its user's alone, in place of a socket that nobody
    /// serves.
    ///
    /// # Errors
    /// [`DoorError::Served`], [`DoorError::OpenFolder`], [`DoorError::Socket`].
    pub fn socket(path: &Path) -> Result<Self, DoorError> {
        let failed = |error| DoorError::Socket(path.to_owned(), error);
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let mode = std::fs::metadata(folder).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(DoorError::OpenFolder(folder.to_owned()));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(DoorError::Served(path.to_owned())),
            // What is no socket refuses too, and is not ours to remove.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                use std::os::unix::fs::FileTypeExt;
                if std::fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
                    std::fs::remove_file(path).map_err(failed)?;
                }
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let endpoint = format!("ipc://{}", path.display());
        Ok(Self { listener: Listener::Socket(listener, path.to_owned()), token: None, endpoint })
    }

    /// The address for a `ZeroMQ` library.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn token(&self) -> Option<&BearerToken> {
        self.token.as_ref()
    }

    pub(crate) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Listener::Socket(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Listener::Socket(_, path) = &self.listener {
            let _ = std::fs::remove_file(path);
        }
    }
}
