//! The results as SVG charts.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::measure::{Session, Setting};
use crate::programs::Kind;
use crate::report::SIZES;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

const SIZE: (u32, u32) = (820, 480);

pub(crate) fn write_all(session: &Session, batch_threads: usize, folder: &Path) -> Drawn {
    std::fs::create_dir_all(folder)?;
    let path = |name: &str| folder.join(name);
    let (latency, share) = (path("bench-latency.svg"), path("bench-per-thread.svg"));
    draw(&latency, |canvas| {
        let whole = |median, _| median;
        by_threads(session, canvas, "microseconds", SeriesLabelPosition::UpperLeft, whole)
    })?;
    draw(&share, |canvas| {
        let divide = |median, threads| median / threads as f64;
        let unit = "microseconds a thread";
        by_threads(session, canvas, unit, SeriesLabelPosition::LowerRight, divide)
    })?;
    let batch = path("bench-batch.svg");
    draw(&batch, |canvas| bars(session, batch_threads, canvas))?;
    for file in [latency, share, batch] {
        println!("\nWrote {}", file.display());
    }
    Ok(())
}

fn draw(path: &Path, picture: impl FnOnce(&Canvas) -> Drawn) -> Drawn {
    let canvas = SVGBackend::new(path, SIZE).into_drawing_area();
    canvas.fill(&WHITE)?;
    picture(&canvas)?;
    canvas.present()?;
    Ok(())
}

/// Colours that a colour-blind reader can distinguish (after Okabe and Ito).
fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Floor => RGBColor(120, 120, 120),
        Kind::Glibc => RGBColor(0, 114, 178),
        Kind::Go => RGBColor(86, 180, 233),
        Kind::Libpsx => RGBColor(230, 159, 0),
        Kind::Musl => RGBColor(0, 158, 115),
        Kind::Psx => RGBColor(213, 94, 0),
    }
}

fn by_threads(
    session: &Session,
    canvas: &Canvas,
    unit: &str,
    legend: SeriesLabelPosition,
    scale: impl Fn(f64, usize) -> f64,
) -> Drawn {
    let lines: Vec<Vec<(f64, f64)>> = (0..session.programs.len())
        .map(|program| {
            let point = |threads: usize| {
                let median = session.samples.median(Setting::quiet("one", threads), program)?;
                Some((threads as f64, scale(median, threads)))
            };
            SIZES.into_iter().filter_map(point).collect()
        })
        .collect();
    let heights = || lines.iter().flatten().map(|point| point.1);
    let lowest = heights().fold(f64::INFINITY, f64::min);
    let highest = heights().fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(canvas)
        .caption("One round, median", ("sans-serif", 20))
        .margin(15)
        .x_label_area_size(45)
        .y_label_area_size(75)
        .build_cartesian_2d((0.8..7000.0).log_scale(), (lowest / 3.0..highest * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(BLACK.mix(0.04))
        .x_desc("parked threads")
        .y_desc(unit)
        .axis_desc_style(("sans-serif", 15))
        .label_style(("sans-serif", 13))
        .x_label_formatter(&|value| format!("{value}"))
        .y_label_formatter(&|value| format!("{value}"))
        .draw()?;
    for (program, line) in session.programs.iter().zip(&lines) {
        let colour = colour(program.kind);
        let style = colour.stroke_width(if program.kind == Kind::Psx { 3 } else { 2 });
        chart
            .draw_series(LineSeries::new(line.iter().copied(), style).point_size(3))?
            .label(&*program.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .position(legend)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 14))
        .draw()?;
    Ok(())
}

fn bars(session: &Session, threads: usize, canvas: &Canvas) -> Drawn {
    let bars: Vec<(String, RGBColor, f64)> = [("ids", "set*id steps"), ("six", "all six steps")]
        .into_iter()
        .flat_map(|(op, what)| {
            session.programs.iter().enumerate().filter_map(move |(i, program)| {
                let median = session.samples.median(Setting::quiet(op, threads), i)?;
                Some((format!("{}, {what}", program.name), colour(program.kind), median))
            })
        })
        .collect();
    let longest = bars.iter().map(|bar| bar.2).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(canvas)
        .caption(format!("A privilege drop at {threads} threads, median"), ("sans-serif", 20))
        .margin(15)
        .margin_right(40)
        .x_label_area_size(45)
        .y_label_area_size(190)
        .build_cartesian_2d(0.0..longest * 1.15, (0..bars.len() - 1).into_segmented())?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("microseconds")
        .axis_desc_style(("sans-serif", 15))
        .label_style(("sans-serif", 13))
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_labels(bars.len())
        .y_label_formatter(&|row| match row {
            SegmentValue::CenterOf(row) => {
                bars.get(*row).map_or(String::new(), |bar| bar.0.clone())
            }
            _ => String::new(),
        })
        .draw()?;
    for (row, (_, colour, length)) in bars.iter().enumerate() {
        let corners = [(0.0, SegmentValue::Exact(row)), (*length, SegmentValue::Exact(row + 1))];
        let mut bar = Rectangle::new(corners, colour.filled());
        bar.set_margin(4, 4, 0, 0);
        chart.draw_series([bar])?;
        let value = Text::new(
            format!(" {length:.0}"),
            (*length, SegmentValue::CenterOf(row)),
            TextStyle::from(("sans-serif", 13)).pos(Pos::new(HPos::Left, VPos::Center)),
        );
        chart.draw_series([value])?;
    }
    Ok(())
}
