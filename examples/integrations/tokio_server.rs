//! A tokio server that starts as root, to get its port, and drops all privileges while requests are in flight.
//!
//! tokio starts its threads itself, so each first registers itself, in `on_thread_start`: the workers, and the
//! threads of the blocking pool, now and later. A round that finds a thread before that tries again; it
//! never misses it.

use std::collections::HashSet;
use std::error::Error;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use psx_examples::attempt::{Answer, Attempt};
use psx_examples::status;
use psx_integrations::{Lacking, Show, dropping_everything, on_blocking_threads, perform};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

/// A server drops root while it answers requests.
#[derive(Parser)]
struct Options {
    /// The port to listen on.
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// How many requests are in flight meanwhile.
    #[arg(long, default_value_t = 200)]
    requests: usize,
    /// How many threads of the runtime do the asynchronous work.
    #[arg(long, default_value_t = 4)]
    workers: usize,
}

/// The number of threads of the blocking pool before the drop; twice as many afterwards.
const BLOCKING: usize = 8;

fn main() -> ExitCode {
    let options = Options::parse();
    perform(io::stdout(), |show| act(show, &options))
}

fn act(show: &mut Show, options: &Options) -> Result<(), Box<dyn Error>> {
    let listener = listen(options.port)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.workers)
        .enable_io()
        .thread_keep_alive(Duration::from_secs(3600)) // so that the threads can be counted
        .on_thread_start(|| psx::thread::adopt().expect("a new thread can be registered"))
        .build()?;
    runtime.block_on(drop_amid(show, listener, options.requests))
}

fn listen(port: u16) -> Result<std::net::TcpListener, Box<dyn Error>> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = listener.map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => {
            Lacking(format!("a user may not listen on port {port}; run it as root"))
        }
        _ => Lacking(format!("port {port}: {e}; choose another with --port")),
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn drop_amid(
    show: &mut Show,
    listener: std::net::TcpListener,
    requests: usize,
) -> Result<(), Box<dyn Error>> {
    let attempts = show.attempts()?;
    let listener = TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let early = on_blocking_threads(BLOCKING, thread_id).await;

    let (begun, mut in_flight) = watch::channel(0);
    let server = tokio::spawn(serve(listener, Arc::new(begun)));
    let (go_on, may_go_on) = watch::channel(false);
    let mut clients = JoinSet::new();
    for number in 0..requests {
        clients.spawn(request(address, number, may_go_on.clone()));
    }
    in_flight.wait_for(|begun| *begun == requests).await?;

    writeln!(show, "Listening on {address}, {requests} requests in flight.")?;
    let (steps, wanted) = dropping_everything(&status::of_this_process()?[0].credentials);
    writeln!(show, "Dropping all privileges:")?;
    show.covered(&steps.apply()?)?;
    go_on.send(true)?;

    let uid = wanted.uids[1];
    let right = format!("worker {uid}, blocking {uid}\n");
    let answers = clients.join_all().await;
    let good = answers.iter().filter(|answer| answer.as_ref().is_ok_and(|a| *a == right)).count();
    show.claim(
        format!("{good} of {requests} requests answered, by threads of uid {uid}"),
        good == requests,
    )?;
    if let Some(bad) = answers.iter().find(|answer| answer.as_ref().ok() != Some(&right)) {
        writeln!(show, "        one of the others: {bad:?}")?;
    }
    server.abort();

    writeln!(show, "Each of {} blocking threads makes each attempt:", 2 * BLOCKING)?;
    let late = on_blocking_threads(2 * BLOCKING, move || {
        (thread_id(), attempts.iter().map(|attempt| (*attempt, attempt.make())).collect())
    });
    let late: Vec<(i32, Vec<(Attempt, Answer)>)> = late.await;
    let early: HashSet<i32> = early.into_iter().collect();
    let new = late.iter().filter(|(tid, _)| !early.contains(tid)).count();
    show.claim(format!("{new} of them were started after the drop"), new >= BLOCKING)?;
    for column in 0..late[0].1.len() {
        let answers: Vec<Answer> = late.iter().map(|(_, answers)| answers[column].1).collect();
        show.may_not(late[0].1[column].0, &answers)?;
    }
    show.states(&wanted)?;
    Ok(())
}

async fn serve(listener: TcpListener, begun: Arc<watch::Sender<usize>>) -> io::Result<()> {
    loop {
        let (connection, _) = listener.accept().await?;
        tokio::spawn(answer(connection, begun.clone()));
    }
}

/// Answers one request, of two lines, with the uids of the threads that worked on it.
async fn answer(connection: TcpStream, begun: Arc<watch::Sender<usize>>) -> io::Result<()> {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    begun.send_modify(|begun| *begun += 1);
    connection.read_line(&mut line).await?;
    let blocking = spawn_blocking(uid).await?;
    let text = format!("worker {}, blocking {blocking}\n", uid());
    connection.write_all(text.as_bytes()).await
}

/// Begins a request, finishes it after `may_go_on`, and returns the answer.
async fn request(
    server: SocketAddr,
    number: usize,
    mut may_go_on: watch::Receiver<bool>,
) -> io::Result<String> {
    let mut connection = TcpStream::connect(server).await?;
    connection.write_all(format!("request {number}\n").as_bytes()).await?;
    may_go_on.wait_for(|may| *may).await.map_err(io::Error::other)?;
    connection.write_all(b"that is all\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The calling thread's own, as the kernel has it.
fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn thread_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}
