"""Networks whose top filters keep to one part: templates, masks, the loss on them, and the backbones.

`templates`            the part templates, an equation written once
`interpretable_conv`   the mask behind a layer; `make_interpretable` puts it behind any layer of any network
`filter_loss`          the loss of such a layer, with what it remembers; `layer_information` computes it in blocks
`mutual_information`   the same quantity written literally, as the paper has it
`paper_variants`       what the paper and its released code do otherwise
`backbones`, `bodies`, `trunk`, `factories`, `weights`   networks by name, cut, with weights from elsewhere
`upconvolution`        the decoder that draws what a layer saw
"""
