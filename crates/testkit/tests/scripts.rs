//! Every file under `testdata/` is a test.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use quorate_testkit::script::{Mode, run_file};

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
    let var = |name: &str| std::env::var(name).ok();
    let mode = match Mode::from_env(var("QUORATE_REWRITE").as_deref(), var("CI").as_deref()) {
        Ok(mode) => mode,
        Err(failure) => {
            eprintln!("{failure}");
            return ExitCode::FAILURE;
        }
    };
    let mut paths = Vec::new();
    if let Err(error) = collect(&root, &mut paths) {
        eprintln!("{}: {error}", root.display());
        return ExitCode::FAILURE;
    }
    paths.sort();
    if paths.is_empty() {
        eprintln!("{}: no scripts", root.display());
        return ExitCode::FAILURE;
    }
    let trials = paths.into_iter().map(|path| {
        let name = path.strip_prefix(&root).unwrap_or(&path).with_extension("").display().to_string();
        let file = format!("testdata/{name}.txt");
        Trial::test(name, move || run_file(&path, &file, mode).map_err(|failure| Failed::from(failure.to_string())))
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            into.push(path);
        }
    }
    Ok(())
}
