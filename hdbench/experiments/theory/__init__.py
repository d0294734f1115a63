"""Which methods reach the true mean velocity, and what a student of limited capacity loses: data where both are known.

Data      clusters of Gaussian sub-modes on a line, and a background; z_t = (1 - t) x + t eps is a mixture at every t
velocity  v(z, t) = E[eps - x | z_t = z] in closed form, see `Exact.velocity`
flow map  dz/dt = v(z, t) from t = 1 to t = 0, G(eps) = z_0, by an adaptive solver of order 8
truth     u(eps, 0, 1) = eps - G(eps), the mean velocity of one step from noise
Students are small networks u_theta(z, r, t), trained by the objectives of the suite as they are, with v for their teacher.
Euler's n steps with v are what a student of n teacher steps can reach at best; one step is v itself in the place of u.

Structure and detail: 1 - D(student) / D(blurred), D the total variation from the true law on these cells: the two sd around
each cluster, or the 1.5 sd around each sub-mode, and all the rest.  In the blurred law one Gaussian of the same mean and
variance stands for all clusters, or for each cluster's sub-modes.  So 1 is the true law, and 0 one without this scale.
"""
