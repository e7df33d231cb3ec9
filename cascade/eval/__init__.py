"""Metrics of generated video: PSNR, SSIM, and how well videos follow their prompts."""
