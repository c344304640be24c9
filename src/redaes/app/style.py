"""How the page looks: Gradio's theme in the colours of the reports, with the fonts of the reader's system."""

import gradio as gr

_RUST = gr.themes.Color(
    name="rust", c50="#fdf4f0", c100="#fae3d9", c200="#f4c5b3", c300="#eca98d", c400="#f08a5d", c500="#cf5427",
    c600="#b4431f", c700="#95361a", c800="#782e19", c900="#622918", c950="#35120a",
)  # fmt: skip
_SYSTEM = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """Light and dark."""
    made = gr.themes.Base(
        primary_hue=_RUST, secondary_hue=_RUST, neutral_hue=gr.themes.colors.stone, font=_SYSTEM, font_mono=_MONO
    )
    return made.set(
        body_background_fill="#fbfaf8",
        body_background_fill_dark="#171614",
        body_text_color="#1d1c1a",
        body_text_color_dark="#eceae5",
        body_text_color_subdued="#67625b",
        body_text_color_subdued_dark="#a19b91",
        color_accent="*primary_600",
        link_text_color="#67625b",
        link_text_color_dark="#a19b91",
        link_text_color_hover="*body_text_color",
        link_text_color_visited="#67625b",
        link_text_color_visited_dark="#a19b91",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#201f1c",
        background_fill_secondary="#f2efe9",
        background_fill_secondary_dark="#2a2824",
        block_background_fill="#ffffff",
        block_background_fill_dark="#201f1c",
        block_border_color="#e3dfd8",
        block_border_color_dark="#37342f",
        block_border_width="1px",
        block_radius="10px",
        block_label_background_fill="#ffffff",
        block_label_background_fill_dark="#201f1c",
        block_label_text_color="#67625b",
        block_label_text_color_dark="#a19b91",
        block_label_border_width="0px",
        block_shadow="none",
        border_color_primary="#e3dfd8",
        border_color_primary_dark="#37342f",
        input_background_fill="#ffffff",
        input_background_fill_dark="#201f1c",
        input_border_width="1px",
        input_border_color="#cfc9bf",
        input_border_color_dark="#4a463f",
        button_primary_background_fill="#b4431f",
        button_primary_background_fill_hover="#95361a",
        button_primary_background_fill_dark="#f08a5d",
        button_primary_background_fill_hover_dark="#eca98d",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#1d1c1a",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#2a2824",
        button_secondary_border_color="#cfc9bf",
        button_secondary_border_color_dark="#4a463f",
        button_border_width="1px",
        button_large_radius="8px",
        button_small_radius="6px",
    )
