//! What the machine can do without us: decode and scale, or run the model, with nothing around it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use engine::onnx::Onnx;
use engine::{Engine, Error, Result, Tensor};

/// Frames a second that `ffmpeg` alone decodes and scales to `width` x `height`, on as many threads as it likes,
/// throwing the pixels away.
///
/// # Errors
/// [`Unavailable`](engine::ErrorKind::Unavailable) when the program is missing or fails.
pub fn decode_fps(clip: &Path, frames: u64, width: usize, height: usize) -> Result<f64> {
    let started = Instant::now();
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(clip)
        .args(["-an", "-vf", &format!("scale={width}:{height}:flags=bilinear,format=bgr24"), "-f", "null", "-"])
        .stdin(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(frames as f64 / started.elapsed().as_secs_f64()),
        Ok(status) => Err(Error::unavailable(format!("ffmpeg failed on {} ({status})", clip.display()))),
        Err(source) => Err(Error::unavailable(format!("ffmpeg cannot be run: {source}; apt-get install ffmpeg"))),
    }
}

/// Frames a second that the bare runtime computes, in a loop on every one of `cores`, each with a plain session of
/// its own over the file at `model`, and the CPU time of a frame. No queue, no decoder, the same inputs every time.
///
/// # Errors
/// The runtime's own.
pub fn runtime_fps(
    onnx: &Onnx,
    model: &Path,
    inputs: &[Tensor],
    cores: &[usize],
    per_core: usize,
) -> Result<(f64, Duration)> {
    let mut sessions = cores.iter().map(|_| onnx.session_from_file(model)).collect::<Result<Vec<_>>>()?;
    let none = onnx.bind(Vec::new())?;
    let outputs: Vec<usize> = (0..sessions.first().map_or(0, |session| session.signature().outputs.len())).collect();
    let barrier = std::sync::Barrier::new(cores.len());
    let times = std::thread::scope(|scope| {
        let lanes: Vec<_> = sessions
            .iter_mut()
            .zip(cores)
            .map(|(session, &core)| {
                let (barrier, none, outputs) = (&barrier, &none, &outputs);
                scope.spawn(move || -> Result<(Duration, Duration)> {
                    engine::cpu::pin_to(core);
                    // The first run allocates the arena; nobody's steady state has that in it. The barrier is passed
                    // whatever came of it, or the others would wait for ever.
                    let warm = session.run(none.as_ref(), inputs, outputs).map(drop);
                    barrier.wait();
                    warm?;
                    let (started, cpu) = (Instant::now(), engine::cpu::thread_cpu());
                    for _ in 0..per_core {
                        session.run(none.as_ref(), inputs, outputs)?;
                    }
                    Ok((started.elapsed(), engine::cpu::thread_cpu().saturating_sub(cpu)))
                })
            })
            .collect();
        lanes
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|_| Err(Error::internal("the runtime panicked"))))
            .collect::<Result<Vec<_>>>()
    })?;
    let frames = per_core * cores.len();
    let wall = times.iter().map(|(wall, _)| *wall).max().unwrap_or_default();
    let cpu: Duration = times.iter().map(|(_, cpu)| *cpu).sum();
    Ok((frames as f64 / wall.as_secs_f64(), cpu / u32::try_from(frames.max(1)).unwrap_or(u32::MAX)))
}
