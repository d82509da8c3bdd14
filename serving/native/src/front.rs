//! The Python class `Front`: the listening side of the server and its thread.

use std::net::{TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::connection::{self, Stage};
use crate::handles::{Batch, Call, LONGEST};
use crate::queue::{Limits, Shared};
use crate::tls::{self, Pem};

/// How long `drain` waits for answers that have been given to reach their clients.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long `close` waits for refusals to reach their clients.
const LAST_REFUSALS: Duration = Duration::from_millis(50);

/// Calls whose clients have left; and for calls that were refused: model, code, reason and number.
type News = (Vec<u64>, Vec<(String, u32, &'static str, usize)>);

/// The listening side of a server; see `_front.pyi`.
#[pyclass(frozen, module = "serving.server._front")]
pub struct Front {
    shared: Arc<Shared>,
    stage: watch::Sender<Stage>,
    #[pyo3(get)]
    port: u16,
    listener: Mutex<Option<TcpListener>>,
    tls: Option<TlsAcceptor>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[pymethods]
impl Front {
    #[new]
    #[pyo3(signature = (host, port, *, message_bytes, unread_bytes, patience_s, batch_rows, waiting_rows, waiting_calls, batches, fill_time_s, tls=None, token=None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        host: &str,
        port: u16,
        message_bytes: usize,
        unread_bytes: usize,
        patience_s: f64,
        batch_rows: usize,
        waiting_rows: usize,
        waiting_calls: usize,
        batches: usize,
        fill_time_s: f64,
        tls: Option<Pem>,
        token: Option<String>,
    ) -> PyResult<Self> {
        let tls = tls.map(tls::acceptor).transpose().map_err(PyValueError::new_err)?;
        let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
        let listener = TcpListener::bind(&addresses[..])?;
        listener.set_nonblocking(true)?;
        let time = |seconds: f64| {
            Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(error.to_string()))
        };
        let fill_time = time(fill_time_s)?;
        let limits =
            Limits { message_bytes, unread_bytes, batch_rows, waiting_rows, waiting_calls, batches, fill_time };
        Ok(Front {
            shared: Shared::new(limits, time(patience_s)?, token),
            stage: watch::Sender::new(Stage::Open),
            port: listener.local_addr()?.port(),
            listener: Mutex::new(Some(listener)),
            tls,
            thread: Mutex::default(),
        })
    }

    fn start(&self) -> PyResult<()> {
        let Some(listener) = self.listener.lock().unwrap().take() else {
            return Err(PyRuntimeError::new_err("the front end was started before; make a new one"));
        };
        let (shared, stage, tls) = (self.shared.clone(), self.stage.subscribe(), self.tls.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let ended = self.stage.subscribe();
        let thread = std::thread::Builder::new().name("front".into()).spawn(move || {
            runtime.block_on(async move {
                let mut ended = ended;
                tokio::spawn(connection::listen(listener, tls, shared, stage));
                let _ = ended.wait_for(|stage| *stage == Stage::Closed).await;
            });
        })?;
        *self.thread.lock().unwrap() = Some(thread);
        Ok(())
    }

    fn next_call(&self, py: Python<'_>) -> Option<Call> {
        let call = py.detach(|| self.shared.next_call())?;
        Some(Call::new(call, &self.shared))
    }

    fn next_batch(&self, py: Python<'_>) -> Option<Batch> {
        py.detach(|| Some(Batch::new(self.shared.next_batch()?, &self.shared)))
    }

    fn next_news(&self, py: Python<'_>) -> Option<News> {
        let news = py.detach(|| self.shared.next_news());
        self.shared.outgoing.release(py);
        let (left, refused) = news?;
        Some((left, refused.into_iter().map(|((model, code, why), count)| (model, code, why, count)).collect()))
    }

    fn held(&self) -> (usize, usize, usize) {
        (self.shared.in_hand.used(), self.shared.bodies.used(), self.shared.outgoing.unread.used())
    }

    fn drain(&self, py: Python<'_>, grace_s: f64) -> bool {
        self.listener.lock().unwrap().take();
        self.stage.send_replace(Stage::Draining);
        let grace = Duration::try_from_secs_f64(grace_s).unwrap_or_default().min(LONGEST);
        py.detach(|| {
            let end = Instant::now() + grace;
            // Clients may have sent calls before they heard that the server ends. So once all calls in hand are
            // answered and the connections had time to close, calls that came meanwhile are waited for too.
            for _ in 0..2 {
                wait_until(end, || self.shared.in_hand.used() == 0);
                wait_until(end.min(Instant::now() + LAST_ANSWERS), || self.shared.connections.used() == 0);
            }
            self.shared.in_hand.used() == 0
        })
    }

    fn close(&self, py: Python<'_>) {
        self.shared.close();
        let thread = self.thread.lock().unwrap().take();
        py.detach(|| {
            // Calls that were refused just now get their answers before the connections end.
            wait_until(Instant::now() + LAST_REFUSALS, || self.shared.connections.used() == 0);
            self.stage.send_replace(Stage::Closed);
            if let Some(thread) = thread {
                let _ = thread.join();
            }
        });
        self.shared.outgoing.release(py);
    }
}

/// Waits until `holds` returns true, or until `end`.
fn wait_until(end: Instant, holds: impl Fn() -> bool) {
    while !holds() {
        if Instant::now() >= end {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
