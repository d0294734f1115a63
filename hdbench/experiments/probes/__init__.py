"""Which head finds a local flaw, and where its gradient goes: real images with one planted flaw.

Flawed     y = x + a m (x' - x), x a real canvas, x' the same with every texture's phase turned by
           half a period; flip, a = 1: the phase is turned; fade, a = 1/4: half the amplitude
where      m = 1 in one s x s patch whose centre is a pixel drawn in proportion to its ink, or
           m = 1 everywhere (global)
correction x - y, known exactly.  A flip of a whole digit is as likely as the digit itself: there is
           nothing to find, so a global control must be a fade.
Features are those of a suite's frozen teachers, at times from its stage 2's smallest to t_max;
heads, their size, loss and optimiser are those of its stage 2.  Heads of a unit are trained side by
side on the same batches: clean against flawed images, other canvases, by the critic's loss.

Measures of a head, on held-out images; g is the gradient of the generator's loss in y:
auc            P(score of a clean image > score of a flawed one), of scores sum_j weights_j
               logits_j; DeLong's standard error
in_flaw_share  E [|g|^2 where x != y] / |g|^2; a uniform gradient has flaw_area, the share of pixels
               that are wrong
cosine         E cos(-g, x - y)
log10_damage   log10 of E |g outside|^2 E |x - y|^2 / E <g, y - x>^2.  Let a step -b g, b for all
               images, cancel the flaw along the true correction, b = E |x - y|^2 / E <g, y - x>:
               this is the squared change outside for each unit of squared error so repaired.
               Infinite where the gradient leads away from the correction
flaw_share     share of the tokens in which anything is wrong; weight_in_flaw: the token weight that
               lies on them
Rule: of the declared learning rates a head has the one with the largest cosine on the validation
seed, whose teacher and held-out images are others, for each flaw and number of tokens.  (Canvases
are others; the digits on them are of the same 450.)
Heads of a seed share teacher, images and noise, so adaptive heads are compared with each plain one
by differences within seeds.
"""
