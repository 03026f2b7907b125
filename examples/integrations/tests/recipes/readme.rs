use psx::{CapabilitySets, Privileges, thread}; // `use std::thread` became `use psx::thread`

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::net::TcpListener::bind("0.0.0.0:80")?; // needs root
    let server = thread::spawn(move || port.incoming().for_each(drop));
    let nobody = Privileges::new().groups(&[]).gid(65534).uid(65534);
    nobody.capabilities(CapabilitySets::empty()).no_new_privs().apply()?;
    // No thread is root any more.
    server.join().map_err(|_| "the server panicked".into())
}
