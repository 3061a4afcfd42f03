//! Prints `PROTOC=...` and `PROTOC_INCLUDE=...`, lines for a shell, of a protoc that came as a registry package.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("PROTOC={}", protoc_bin_vendored::protoc_bin_path()?.display());
    println!("PROTOC_INCLUDE={}", protoc_bin_vendored::include_path()?.display());
    Ok(())
}
