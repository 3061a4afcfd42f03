//! Runs one path: `quorate-guard NAME` prints how many operations were [measured](quorate_guard::measured), and how many
//! allocations they made;
//! `quorate-guard list` prints the names, and what an operation of each is.

use std::process::ExitCode;

use quorate_guard::paths::PATHS;

fn main() -> ExitCode {
    let asked = std::env::args().nth(1).unwrap_or_default();
    if asked == "list" {
        PATHS.iter().for_each(|path| println!("{}\t{}", path.name, path.what));
        return ExitCode::SUCCESS;
    }
    let Some(path) = PATHS.iter().find(|path| path.name == asked) else {
        eprintln!("usage: quorate-guard list | NAME");
        return ExitCode::from(2);
    };
    match (path.run)() {
        Ok(operations) => {
            println!("{operations} {}", quorate_guard::allocations());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{asked}: {error}");
            ExitCode::FAILURE
        }
    }
}
