//! A slow way to the server: TCP on loopback where each answer takes a while. What happens within a
//! millisecond on one machine then takes long enough to be met by a test.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How much later an answer arrives.
pub const DELAY: Duration = Duration::from_millis(20);

/// Passes connections on. Dropped, it takes no more.
pub struct SlowLink {
    port: u16,
    is_over: Arc<AtomicBool>,
}

impl SlowLink {
    /// Opens one to a port of loopback.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn open(to: u16) -> SlowLink {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("the address that was bound").port();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                // One that the server refuses is closed.
                let _ = TcpStream::connect(("127.0.0.1", to)).and_then(|server| pass(client, server));
            }
        });
        SlowLink { port, is_over }
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for the next one.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(client: TcpStream, server: TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (to_server, from_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || copy(from_client, to_server, Duration::ZERO));
    thread::spawn(move || copy(server, client, DELAY));
    Ok(())
}

/// Until either side closes.
fn copy(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        thread::sleep(delay);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
