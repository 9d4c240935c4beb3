"""How our pages in the browser look: warm paper, ink and cobalt by day, a dim studio by night."""

from pathlib import Path

import gradio as gr

STYLE = Path(__file__).with_suffix(".css")

COBALT = gr.themes.Color(
    "#eff1f8", "#dfe3f1", "#c2c9e4", "#9da8d3", "#7584bd", "#5565a6", "#42518f", "#364274", "#2b355c", "#222a47",
    "#161b2e", name="cobalt",
)  # fmt: skip
PAPER = gr.themes.Color(
    "#fbf8f1", "#f5f0e5", "#e9e1d1", "#d8cdb9", "#a99d8a", "#756b5d", "#5c5449", "#433d36", "#2c2824", "#211e1b",
    "#181613", name="paper",
)  # fmt: skip


def title(about: str) -> gr.HTML:
    """The head of a page, with one sentence about it."""
    return gr.HTML(f"<h1>Impressionism</h1><p>{about}</p>", elem_id="title")


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=COBALT,
        secondary_hue=COBALT,
        neutral_hue=PAPER,
        radius_size=gr.themes.sizes.radius_sm,
        spacing_size=gr.themes.sizes.spacing_lg,
        font=("system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Liberation Sans", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Liberation Mono", "monospace"),
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_800",
        body_text_color_dark="*neutral_200",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="*neutral_50",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_950",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_text_color="*neutral_500",
        block_label_text_color_dark="*neutral_400",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
        block_title_text_weight="500",
        block_title_background_fill="transparent",
        panel_background_fill="transparent",
        panel_border_width="0px",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_900",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_border_width="1px",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        slider_color="*primary_500",
        slider_color_dark="*primary_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="*neutral_50",
        button_secondary_background_fill="transparent",
        button_secondary_background_fill_dark="transparent",
        button_secondary_background_fill_hover="*neutral_200",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_large_text_weight="500",
    )
